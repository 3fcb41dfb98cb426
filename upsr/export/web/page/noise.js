// The noise of the command: the same numbers for the same photo and seed (upsr/rng.py, upsr/philox.py).

import { blake2b64 } from "./hash.js";

const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57];
const WEYL = [0x9e3779b9, 0xbb67ae85];
const ROUNDS = 10;

/** Identity of a photo's noise: SHA-256 of its shape and its pixels, as the command takes it. */
export async function identityOf(rgb, height, width) {
  const shape = new TextEncoder().encode(`(${height}, ${width}, 3)`);
  const whole = new Uint8Array(shape.length + rgb.length);
  whole.set(shape);
  whole.set(rgb, shape.length);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Standard normal planes of `rows` x `columns` values each, one after the other: the k-th draw of a photo. */
export function noiseField(seed, identity, k, planes, rows, columns) {
  const text = `int:${seed}\x1fstr:restore\x1fstr:${identity}\x1fint:${k}`;
  const seedOfDraw = blake2b64(new TextEncoder().encode(text)) >> 1n;
  const key = [Number(seedOfDraw & 0xffffffffn), Number(seedOfDraw >> 32n)];
  const field = new Float32Array(planes * rows * columns);
  let place = 0;
  for (let plane = 0; plane < planes; plane++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column += 4) {
        const four = normals(philox([column / 4, row, plane, 0], key));
        for (let i = 0; i < 4 && column + i < columns; i++) field[place++] = four[i];
      }
    }
  }
  return field;
}

/** Four numbers of 32 bits for a counter and a key: Philox4x32-10 (Salmon et al., SC 2011). */
export function philox([a, b, c, d], [key0, key1]) {
  for (let round = 0; round < ROUNDS; round++) {
    const [high0, high1] = [highWord(a, MULTIPLIERS[0]), highWord(c, MULTIPLIERS[1])];
    [a, b, c, d] = [high1 ^ b ^ key0, Math.imul(c, MULTIPLIERS[1]), high0 ^ d ^ key1, Math.imul(a, MULTIPLIERS[0])];
    key0 = (key0 + WEYL[0]) | 0;
    key1 = (key1 + WEYL[1]) | 0;
  }
  return [a >>> 0, b >>> 0, c >>> 0, d >>> 0];
}

/** The upper half of a product of 64 bits, by halves of x: a number has 53. */
function highWord(x, factor) {
  const middle = (x >>> 16) * factor + Math.floor(((x & 0xffff) * factor) / 0x10000);
  return Math.floor(middle / 0x10000);
}

/** Box and Muller's formula, twice. */
function normals(words) {
  const values = [];
  for (let pair = 0; pair < 4; pair += 2) {
    const length = Math.sqrt(-2 * Math.log((words[pair] + 1) / 0x100000000));
    const angle = words[pair + 1] * ((2 * Math.PI) / 0x100000000);
    values.push(length * Math.cos(angle), length * Math.sin(angle));
  }
  return values;
}
