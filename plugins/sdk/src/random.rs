//! Random numbers that can be repeated.

/// Numbers that follow from one random number (splitmix64): the same call always decides the same.
pub struct Random(u64);

impl Random {
    /// Starts from a call's random number.
    pub const fn new(seed: u32) -> Self {
        Self(seed as u64)
    }

    /// Uniform in 0 ≤ x < 1.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform between `min` and `max`.
    pub fn between(&mut self, min: f64, max: f64) -> f64 {
        min + self.unit() * (max - min)
    }
}
