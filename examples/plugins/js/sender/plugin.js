// A device sender: posts each message as JSON to an HTTP API, with a secret that it never sees, and says what each answer means.

const CONFIG_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "HTTP API",
  type: "object",
  additionalProperties: false,
  required: ["url"],
  properties: {
    url: { title: "URL", description: "Where messages are posted to.", type: "string", pattern: "^https?://" },
    timeout_ms: { title: "Time-out", description: "In milliseconds; 10,000 by default.", type: "number", exclusiveMinimum: 0 },
  },
};

// A device's own settings.
const ADAPTER_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  properties: { from: { title: "Sender", description: "Whom messages come from.", type: "string" } },
};

export const describe = {
  get: () => ({
    name: "js-sender",
    version: "1.0.0",
    summary: "Posts each message as JSON to an HTTP API.",
    configSchema: JSON.stringify(CONFIG_SCHEMA),
    adapterSchema: JSON.stringify(ADAPTER_SCHEMA),
    hosts: [], // The configuration decides.
    secrets: ["API_KEY"],
    // True of an API that heeds Idempotency-Key: what is posted twice is sent once.
    capabilities: [["provider-deduplicates", "true"]],
  }),
};

export const sender = {
  start: answering((ctx, { message, recipient, content, device }) => {
    const config = JSON.parse(ctx.config);
    const body = {
      id: message.id,
      to: recipient.address,
      text: content.text,
      device: device.id,
      attempt: message.attempt,
      from: JSON.parse(device.adapter).from,
    };
    const request = {
      method: "POST",
      url: config.url,
      headers: [
        ["Content-Type", "application/json"],
        ["Authorization", "Bearer {{secret:API_KEY}}"],
        ["Idempotency-Key", message.id],
      ],
      body: { tag: "text", val: JSON.stringify(body) },
      timeoutMs: config.timeout_ms ?? 10_000,
    };
    return { step: { tag: "request", val: { request, state: "" } }, accountState: null };
  }),

  resume: answering((_ctx, _state, answer) => {
    return { step: { tag: "done", val: outcome(answer) }, accountState: null };
  }),
};

// What the answer to the request means.
function outcome(answer) {
  // Nothing has left, so it is safe to try again.
  if (answer.tag === "not-sent") return { tag: "transient", val: failure("not-sent", answer.val) };
  // It may have been sent: the campaign decides.
  if (answer.tag === "unanswered") return { tag: "unknown", val: failure("unanswered", answer.val) };

  const { status, headers, body } = answer.val;
  const said = parsed(body);
  const reason = failure(`http-${status}`, `the API answered ${status}`);
  const rejected = (problem) => ({ tag: "recipient-permanent", val: { problem, reason } });
  if (status >= 200 && status < 300) {
    const providerId = typeof said.id === "string" ? said.id : "";
    return { tag: "accepted", val: { providerId, attributes: [] } };
  }
  if (status === 429) return { tag: "retry-after", val: { scope: "device", delayMs: retryAfterMs(headers), reason } };
  if (status === 401 || status === 403) return { tag: "account-blocked", val: reason };
  if (status >= 400 && status < 500) {
    switch (said.error) {
      case "unknown-recipient": return rejected("invalid");
      case "blocked": return rejected("blocked");
      case "opted-out": return { tag: "opted-out", val: reason };
    }
  }
  if (status >= 500 && status < 600) return { tag: "transient", val: reason };
  return { tag: "content-rejected", val: reason };
}

// The JSON of an answer; an empty object if it is none.
function parsed(body) {
  try {
    return JSON.parse(body.val) ?? {};
  } catch {
    return {};
  }
}

// How long the API asks to wait: a minute if it does not say so in seconds.
function retryAfterMs(headers) {
  const [, value] = headers.find(([name]) => name === "retry-after") ?? [];
  return /^\d{1,9}$/.test(value) ? Number(value) * 1000 : 60_000;
}

// No address, text or secret belongs in here.
function failure(code, detail) {
  return { code, detail, attributes: [] };
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
