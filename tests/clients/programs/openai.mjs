// The OpenAI SDK: a tool loop that sends its whole history, then one that streams; over WebSocket if asked for.
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const client = new OpenAI({ apiKey: "sk-test", baseURL: process.env.BASE_URL });
const tools = [{
  type: "function", name: "weather", description: "The weather of a city.", strict: false,
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
}];

async function created(input) {
  return client.responses.create({ model: "gpt-5.2", input, tools, store: false, include: ["reasoning.encrypted_content"] });
}

async function streamed(input) {
  const stream = client.responses.stream({ model: "gpt-5.2", input, tools });
  let text = "";
  stream.on("response.output_text.delta", (event) => { text += event.delta; });
  const response = await stream.finalResponse();
  if (text !== response.output_text) throw new Error(`deltas ${text}, at the end ${response.output_text}`);
  return response;
}

function bySocket(socket) {
  let parent;
  return (input) => new Promise((resolve, reject) => {
    const one = (event) => {
      if (event.type !== "response.completed") return;
      socket.off("event", one);
      parent = event.response.id;
      const output_text = event.response.output.flatMap((item) => item.content ?? []).map((part) => part.text).join("");
      resolve({ ...event.response, output_text });
    };
    socket.on("event", one);
    socket.on("error", reject);
    // It goes on from its own parent: only what is new is sent.
    const sent = parent ? input.filter((item) => item.type === "function_call_output").slice(-1) : input;
    socket.send({ type: "response.create", model: "gpt-5.2", input: sent, tools, previous_response_id: parent });
  });
}

async function loop(ask) {
  const input = [{ role: "user", content: "Is it nice in Paris?" }];
  for (;;) {
    const response = await ask(input);
    input.push(...response.output);
    const calls = response.output.filter((item) => item.type === "function_call");
    if (!calls.length) return response.output_text;
    for (const call of calls) input.push({ type: "function_call_output", call_id: call.call_id, output: "sunny" });
  }
}

const answers = [];
if (process.env.TRANSPORT === "websocket") {
  const socket = new ResponsesWS(client);
  answers.push(await loop(bySocket(socket)));
  socket.close();
} else {
  answers.push(await loop(created), await loop(streamed));
}
console.log(JSON.stringify(answers));
