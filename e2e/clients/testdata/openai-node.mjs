import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE, apiKey: "none" });
const response = await client.responses.create({ model: "gpt-5", input: "Say hello" });
console.log(response.output_text);

const stream = await client.responses.create({ model: "gpt-5", input: "Say hello", stream: true });
for await (const event of stream) {
  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
}
