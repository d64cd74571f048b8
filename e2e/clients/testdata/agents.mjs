import OpenAI from "openai";
import { Agent, run, setDefaultOpenAIClient, setTracingDisabled } from "@openai/agents";

setTracingDisabled(true); // traces would go to api.openai.com, past the proxy
setDefaultOpenAIClient(new OpenAI({ baseURL: process.env.BASE, apiKey: "none" }));
const agent = new Agent({ name: "Assistant", instructions: "Be brief.", model: "gpt-5" });
console.log((await run(agent, "Say hello")).finalOutput);

const stream = await run(agent, "Say hello", { stream: true });
for await (const text of stream.toTextStream()) process.stdout.write(text);
await stream.completed;
