// A delay strategy: a random pause and the time to type the text, longer for as long as the provider asks to slow down.

const SLOWEST = 64; // times

const CONFIG_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "Typing pace",
  type: "object",
  additionalProperties: false,
  required: ["min_ms", "max_ms"],
  properties: {
    min_ms: { title: "Shortest pause", description: "In milliseconds.", type: "number", minimum: 0 },
    max_ms: { title: "Longest pause", description: "In milliseconds.", type: "number", minimum: 0 },
    per_character_ms: { title: "For each character", description: "In milliseconds.", type: "number", minimum: 0 },
  },
};

export const describe = {
  get: () => ({
    name: "js-delay",
    version: "1.0.0",
    summary: "Waits as a person would who types, and slows down when asked to.",
    configSchema: JSON.stringify(CONFIG_SCHEMA),
    adapterSchema: "",
    hosts: [],
    secrets: [],
    capabilities: [],
  }),
};

export const delay = {
  nextDelay: answering((ctx, pace, state) => {
    const config = JSON.parse(ctx.config);
    if (config.min_ms > config.max_ms) {
      throw { tag: "invalid-config", val: "min_ms must not be greater than max_ms" };
    }
    // The state is how many times slower the device is; empty at first. Twice as slow each time that the provider asks to slow
    // down, half as slow with each message that it takes.
    let slower = Number(state) || 1;
    if (pace.lastOutcome === "throttled") slower = Math.min(slower * 2, SLOWEST);
    if (pace.lastOutcome === "sent") slower = Math.max(slower / 2, 1);
    // All randomness comes with the call, so that a call can be repeated exactly.
    const pauseMs = config.min_ms + (config.max_ms - config.min_ms) * (unsigned(ctx.random) / 2 ** 32);
    const typingMs = (config.per_character_ms ?? 0) * pace.textLength;
    return { delayMs: (pauseMs + typingMs) * slower, state: String(slower) };
  }),
};

// componentize-qjs hands over a u32 of 2^31 or more as a negative number, which has the same bits.
function unsigned(u32) {
  return u32 >>> 0;
}

// What is thrown must be an error of the contract: anything else would end the call without a word.
function answering(call) {
  return (...args) => {
    try {
      return call(...args);
    } catch (error) {
      throw error.tag ? error : { tag: "internal", val: String(error) };
    }
  };
}
