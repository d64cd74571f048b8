import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE, apiKey: "none" });
try {
  for (;;) await client.responses.create({ model: "gpt-5", input: "Say hello" });
} catch (e) {
  const left = ["limit", "remaining", "reset"].map((name) => e.headers.get(`x-ratelimit-${name}-tokens`));
  console.log(e.status, e.code, ...left);
}
