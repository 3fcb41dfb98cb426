// The exported networks under ONNX Runtime Web, on the graphics card (WebGPU) or the processor (WebAssembly).

import * as ort from "./runtime.js";

/** Functions of named inputs [values, sides], by the networks' names; they give the values of the output. */
export async function loadNetworks(record, device) {
  ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  ort.env.wasm.wasmBinary ??= await unpacked(`runtime.wasm${record.web.packed}`);
  const networks = {};
  for (const [name, { files, output }] of Object.entries(record.networks)) {
    const session = await ort.InferenceSession.create(new Uint8Array(await unpacked(files[0].name + record.web.packed)), {
      executionProviders: [device === "gpu" ? "webgpu" : "wasm"],
    });
    networks[name] = async (inputs) => {
      const found = await session.run(Object.fromEntries(Object.entries(inputs).map(([key, given]) => [key, tensor(...given)])));
      return found[output].data;
    };
  }
  return networks;
}

function tensor(values, sides) {
  return new ort.Tensor(values instanceof BigInt64Array ? "int64" : "float32", values, sides);
}

/** The bytes of a file of this folder, which is stored compressed. */
async function unpacked(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name} is not there (${answer.status})`);
  return new Response(answer.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
