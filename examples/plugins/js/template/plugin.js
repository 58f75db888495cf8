// A message template: a text in which {name} stands for the recipient's value in the audience's column "name".

const CONFIG_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  title: "Text with placeholders",
  type: "object",
  additionalProperties: false,
  required: ["text"],
  properties: {
    text: { title: "Text", description: "{name} stands for the audience's column name.", type: "string", minLength: 1 },
    subject: { title: "Subject", description: "With placeholders, too.", type: "string" },
    defaults: {
      title: "Defaults",
      description: "What stands where a recipient has no value.",
      type: "object",
      additionalProperties: { type: "string" },
    },
  },
};

export const describe = {
  get: () => ({
    name: "js-template",
    version: "1.0.0",
    summary: "A text with the recipient's values in it.",
    configSchema: JSON.stringify(CONFIG_SCHEMA),
    adapterSchema: "",
    hosts: [],
    secrets: [],
    capabilities: [],
  }),
};

export const template = {
  render: answering((ctx, jobs) => {
    const config = JSON.parse(ctx.config);
    const text = pieces(config.text);
    const subject = config.subject === undefined ? null : pieces(config.subject);
    const defaults = new Map(Object.entries(config.defaults ?? {}));
    // One answer for each job: a recipient without a value fails alone.
    return jobs.map((job) => {
      const values = new Map([...defaults, ...job.recipient.variables]);
      try {
        return {
          tag: "ok",
          val: { text: fill(text, values), subject: subject && fill(subject, values), media: [], attributes: [] },
        };
      } catch (error) {
        return { tag: "err", val: ofContract(error) };
      }
    });
  }),

  variables: answering((ctx) => {
    const { text, subject = "" } = JSON.parse(ctx.config);
    return [...new Set([text, subject].flatMap((text) => pieces(text).map((piece) => piece.name)))].filter(
      (name) => name !== undefined,
    );
  }),
};

// What a text is made of: { text } and { name }.
function pieces(text) {
  const [first, ...rest] = text.split("{");
  return [{ text: first }, ...rest.flatMap((part) => {
    const end = part.indexOf("}");
    if (end < 0) throw { tag: "invalid-config", val: "a { is not closed" };
    return [{ name: part.slice(0, end) }, { text: part.slice(end + 1) }];
  })];
}

function fill(pieces, values) {
  return pieces.map(({ text, name }) => {
    if (name === undefined) return text;
    if (values.has(name)) return values.get(name);
    throw { tag: "invalid-input", val: `the recipient has no "${name}", and there is no default for it` };
  }).join("");
}

// What is thrown must be an error of the contract: anything else would end the call without a word.
function answering(call) {
  return (...args) => {
    try {
      return call(...args);
    } catch (error) {
      throw ofContract(error);
    }
  };
}

function ofContract(error) {
  return error.tag ? error : { tag: "internal", val: String(error) };
}
