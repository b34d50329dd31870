// pi's model library: a tool loop.
import { complete, getModel, stream, Type } from "@earendil-works/pi-ai";

const model = { ...getModel("openai", "gpt-5.2"), baseUrl: process.env.BASE_URL };
const tools = [{
  name: "weather", description: "The weather of a city.", parameters: Type.Object({ city: Type.String() }),
}];
const options = { apiKey: "sk-test", sessionId: "session-1" };

async function loop(ask) {
  const context = { systemPrompt: "Be brief.", messages: [{ role: "user", content: "Is it nice in Paris?", timestamp: 0 }], tools };
  for (;;) {
    const message = await ask(context);
    if (message.stopReason === "error") throw new Error(message.errorMessage);
    context.messages.push(message);
    const calls = message.content.filter((part) => part.type === "toolCall");
    if (!calls.length) return message.content.filter((part) => part.type === "text").map((part) => part.text).join("");
    for (const call of calls) {
      context.messages.push({
        role: "toolResult", toolCallId: call.id, toolName: call.name,
        content: [{ type: "text", text: "sunny" }], isError: false, timestamp: 0,
      });
    }
  }
}

const answers = [await loop((context) => complete(model, context, options))];
answers.push(await loop(async (context) => {
  const events = stream(model, context, options);
  for await (const _ of events) { /* to its end */ }
  return events.result();
}));
console.log(JSON.stringify(answers));
process.exit(0);
