//! Makes `customers.csv`, the audience of `carillon demo`: 30,000 invented people, always the same ones.
//!
//! ```sh
//! rustc -O -o /tmp/make_customers examples/demo/make_customers.rs && /tmp/make_customers > examples/demo/customers.csv
//! ```
//!
//! Every number lies in a range that its country's regulator keeps for drama and fiction, so none rings anywhere:
//! ARCEP `06 39 98`, Ofcom `0xx 496 0` and `07700 900`, Bundesnetzagentur `030 23125` and its like, ACMA `(0x) 5550`,
//! NANPA `555-01xx`.

use std::fmt::Write as _;

/// People in the file.
pub const CUSTOMERS: usize = 30_000;

/// A block of reserved numbers: country's first names, city, zone, prefix, digits after it, how many are used.
struct Block(&'static [&'static str], &'static str, &'static str, &'static str, usize, usize);

const FRENCH: &[&str] = &[
    "Margaux", "Lucien", "Odile", "Bastien", "Camille", "Thierry", "Solène", "Maël", "Inès", "Gaspard", "Noémie",
    "Rémi",
];
const BRITISH: &[&str] =
    &["Imogen", "Alfie", "Priya", "Callum", "Freya", "Rhys", "Nadia", "Angus", "Tamsin", "Dev", "Morag", "Elliot"];
const GERMAN: &[&str] =
    &["Annika", "Jörg", "Liesel", "Torben", "Mareike", "Emre", "Frauke", "Jonas", "Selin", "Ulrich", "Greta", "Henrik"];
const AUSTRALIAN: &[&str] =
    &["Matilda", "Jarrah", "Bronte", "Lachlan", "Kiah", "Digby", "Thuy", "Angus", "Marlee", "Beau", "Indi", "Callum"];
const AMERICAN: &[&str] =
    &["Delia", "Marcus", "Rosa", "Wyatt", "Imani", "Theo", "Lupe", "Harlan", "Mei", "Desmond", "June", "Otis"];

const BLOCKS: &[Block] = &[
    Block(FRENCH, "Paris", "Europe/Paris", "+33639980", 3, 1000),
    Block(FRENCH, "Lyon", "Europe/Paris", "+33639981", 3, 1000),
    Block(FRENCH, "Nantes", "Europe/Paris", "+33639982", 3, 1000),
    Block(FRENCH, "Lille", "Europe/Paris", "+33639983", 3, 1000),
    Block(FRENCH, "Toulouse", "Europe/Paris", "+33639984", 3, 1000),
    Block(FRENCH, "Marseille", "Europe/Paris", "+33639985", 3, 1000),
    Block(FRENCH, "Rennes", "Europe/Paris", "+33639986", 3, 1000),
    Block(FRENCH, "Bordeaux", "Europe/Paris", "+33639987", 3, 1000),
    Block(BRITISH, "Leeds", "Europe/London", "+441134960", 3, 1000),
    Block(BRITISH, "Sheffield", "Europe/London", "+441144960", 3, 1000),
    Block(BRITISH, "Bristol", "Europe/London", "+441174960", 3, 1000),
    Block(BRITISH, "Edinburgh", "Europe/London", "+441314960", 3, 1000),
    Block(BRITISH, "Glasgow", "Europe/London", "+441414960", 3, 1000),
    Block(BRITISH, "Liverpool", "Europe/London", "+441514960", 3, 1000),
    Block(BRITISH, "London", "Europe/London", "+447700900", 3, 1000),
    Block(GERMAN, "Berlin", "Europe/Berlin", "+493023125", 3, 1000),
    Block(GERMAN, "Frankfurt", "Europe/Berlin", "+496990009", 3, 1000),
    Block(GERMAN, "Hamburg", "Europe/Berlin", "+494066969", 3, 1000),
    Block(GERMAN, "Köln", "Europe/Berlin", "+492214710", 3, 1000),
    Block(GERMAN, "München", "Europe/Berlin", "+498999998", 3, 1000),
    Block(AUSTRALIAN, "Sydney", "Australia/Sydney", "+61255500", 3, 1000),
    Block(AUSTRALIAN, "Melbourne", "Australia/Melbourne", "+61355500", 3, 1000),
    Block(AUSTRALIAN, "Brisbane", "Australia/Brisbane", "+61755500", 3, 1000),
    Block(AUSTRALIAN, "Perth", "Australia/Perth", "+61855500", 3, 1000),
    Block(AUSTRALIAN, "Adelaide", "Australia/Adelaide", "+61855501", 3, 1000),
];

/// American cities with their area code and zone, a hundred numbers each.
const AMERICA: &[(&str, &str, &str)] = &[
    ("Washington", "202", "America/New_York"),
    ("New York", "212", "America/New_York"),
    ("Los Angeles", "213", "America/Los_Angeles"),
    ("Philadelphia", "215", "America/New_York"),
    ("Cleveland", "216", "America/New_York"),
    ("Seattle", "206", "America/Los_Angeles"),
    ("San Antonio", "210", "America/Chicago"),
    ("New Orleans", "504", "America/Chicago"),
    ("Boise", "208", "America/Boise"),
    ("Baton Rouge", "225", "America/Chicago"),
    ("Denver", "303", "America/Denver"),
    ("Miami", "305", "America/New_York"),
    ("Chicago", "312", "America/Chicago"),
    ("Detroit", "313", "America/Detroit"),
    ("St. Louis", "314", "America/Chicago"),
    ("Indianapolis", "317", "America/Indiana/Indianapolis"),
    ("Atlanta", "404", "America/New_York"),
    ("Oklahoma City", "405", "America/Chicago"),
    ("San Jose", "408", "America/Los_Angeles"),
    ("Pittsburgh", "412", "America/New_York"),
    ("Milwaukee", "414", "America/Chicago"),
    ("San Francisco", "415", "America/Los_Angeles"),
    ("Toledo", "419", "America/New_York"),
    ("Louisville", "502", "America/Kentucky/Louisville"),
    ("Portland", "503", "America/Los_Angeles"),
    ("Albuquerque", "505", "America/Denver"),
    ("Austin", "512", "America/Chicago"),
    ("Cincinnati", "513", "America/New_York"),
    ("Des Moines", "515", "America/Chicago"),
    ("Tucson", "520", "America/Phoenix"),
    ("Phoenix", "602", "America/Phoenix"),
    ("Madison", "608", "America/Chicago"),
    ("Minneapolis", "612", "America/Chicago"),
    ("Columbus", "614", "America/New_York"),
    ("Nashville", "615", "America/Chicago"),
    ("Boston", "617", "America/New_York"),
    ("San Diego", "619", "America/Los_Angeles"),
    ("Las Vegas", "702", "America/Los_Angeles"),
    ("Charlotte", "704", "America/New_York"),
    ("Houston", "713", "America/Chicago"),
    ("Buffalo", "716", "America/New_York"),
    ("Salt Lake City", "801", "America/Denver"),
    ("Richmond", "804", "America/New_York"),
    ("Honolulu", "808", "Pacific/Honolulu"),
    ("Kansas City", "816", "America/Chicago"),
    ("Memphis", "901", "America/Chicago"),
    ("Anchorage", "907", "America/Anchorage"),
    ("Sacramento", "916", "America/Los_Angeles"),
    ("Raleigh", "919", "America/New_York"),
    ("Fort Worth", "817", "America/Chicago"),
];

/// The file.
pub fn csv() -> String {
    let mut rows = Vec::with_capacity(CUSTOMERS);
    for Block(names, city, zone, prefix, digits, count) in BLOCKS {
        for n in 0..*count {
            let name = names[(n * 7 + n / 12) % names.len()];
            rows.push(format!("{prefix}{n:0digits$},{name},{city},{zone}"));
        }
    }
    for (city, area, zone) in AMERICA {
        for n in 0..100 {
            let name = AMERICAN[(n * 7 + n / 12) % AMERICAN.len()];
            rows.push(format!("+1{area}55501{n:02},{name},{city},{zone}"));
        }
    }
    shuffle(&mut rows);

    let mut out = String::from("address,name,city,zone,points\n");
    for (n, row) in rows.iter().enumerate() {
        let _ = writeln!(out, "{row},{}", (n * 37) % 1000);
    }
    out
}

/// Fisher-Yates with a small linear congruential generator: neighbours in the file are strangers.
fn shuffle(rows: &mut [String]) {
    let mut state: u64 = 0x5eed;
    for last in (1..rows.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        rows.swap(last, (state >> 33) as usize % (last + 1));
    }
}

#[allow(dead_code)] // A test reads this file as a module.
fn main() {
    print!("{}", csv());
}
