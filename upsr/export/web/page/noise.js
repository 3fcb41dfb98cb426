// The noise of the command: the same numbers for the same photo and seed (upsr/rng.py, NoiseField in upsr/restoring/restore.py).

import { blake2b64 } from "./hash.js";

const LENGTH = 624;
const OFFSET = 397;
const CHUNK = 16;

/** Identity of a photo's noise: SHA-256 of its shape and its pixels, as the command takes it. */
export async function identityOf(rgb, height, width) {
  const shape = new TextEncoder().encode(`(${height}, ${width}, 3)`);
  const whole = new Uint8Array(shape.length + rgb.length);
  whole.set(shape);
  whole.set(rgb, shape.length);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Standard normal planes of `size` values each, one after the other: the k-th draw of a photo. */
export function noiseField(seed, identity, k, planes, size) {
  const key = `int:${seed}\x1fstr:restore\x1fstr:${identity}\x1fint:${k}`;
  const twister = new Twister(Number((blake2b64(new TextEncoder().encode(key)) >> 1n) & 0xffffffffn));
  const field = new Float32Array(planes * size);
  for (let plane = 0; plane < planes; plane++) fillNormal(field.subarray(plane * size, (plane + 1) * size), twister);
  return field;
}

/** As torch fills a tensor on the CPU: uniform values, then Box and Muller's pairs within each 16; sizes are multiples of 16. */
function fillNormal(values, twister) {
  for (let i = 0; i < values.length; i++) values[i] = (twister.next() & 0xffffff) / 0x1000000;
  for (let start = 0; start < values.length; start += CHUNK) {
    for (let i = start; i < start + CHUNK / 2; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[i]));
      const angle = 2 * Math.PI * values[i + CHUNK / 2];
      values[i] = radius * Math.cos(angle);
      values[i + CHUNK / 2] = radius * Math.sin(angle);
    }
  }
}

/** MT19937 (Matsumoto and Nishimura, 1998), which torch's generators on the CPU are. */
class Twister {
  constructor(seed) {
    this.state = new Uint32Array(LENGTH);
    this.state[0] = seed;
    for (let i = 1; i < LENGTH; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, before) + i;
    }
    this.place = LENGTH;
  }

  next() {
    if (this.place === LENGTH) this.refill();
    let x = this.state[this.place++];
    x ^= x >>> 11;
    x ^= (x << 7) & 0x9d2c5680;
    x ^= (x << 15) & 0xefc60000;
    return (x ^ (x >>> 18)) >>> 0;
  }

  refill() {
    const s = this.state;
    for (let i = 0; i < LENGTH; i++) {
      const joined = (s[i] & 0x80000000) | (s[(i + 1) % LENGTH] & 0x7fffffff);
      s[i] = s[(i + OFFSET) % LENGTH] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    this.place = 0;
  }
}
