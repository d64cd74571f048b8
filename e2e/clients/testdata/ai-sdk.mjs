import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";

const openai = createOpenAI({ baseURL: process.env.BASE, apiKey: "none" });
const { text } = await generateText({ model: openai("gpt-5"), prompt: "Say hello" });
console.log(text);

const { textStream } = streamText({ model: openai("gpt-5"), prompt: "Say hello" });
for await (const delta of textStream) process.stdout.write(delta);
