// A photo's restoration with the exported networks: UPSR.restore in upsr/methods/upsr/method.py, and docs/export.md.

import { addWeighted, bytesOf, cut, planesOf, stateOf, upsampled } from "./images.js";
import { identityOf, noiseField } from "./noise.js";
import { windowsOf } from "./tiles.js";

/**
 * The photo, `plan.scale` times as large.
 *
 * @param photo {width, height, pixels}: RGBA bytes, opaque.
 * @param plan numbers of the sampler, `restoring` of export.json.
 * @param timesteps that the denoiser is called at; none for the first estimate alone.
 * @param networks {g, denoiser}: of named inputs, each [values, sides], their image.
 * @param progress called with (done, total) after each network call.
 */
export async function restore(photo, plan, { tile, timesteps, seed }, networks, progress) {
  const s = plan.scale;
  const [height, width] = [photo.height, photo.width].map((side) => Math.ceil(side / plan.size_multiple) * plan.size_multiple);
  const size = height * width;
  const windows = windowsOf(height, width, tile, plan.size_multiple);
  let done = 0;

  async function blended(out, ofWindow) {
    out.fill(0);
    for (const window of windows) {
      addWeighted(out, height, width, window, await ofWindow(window));
      progress(++done, windows.length * (1 + timesteps.length));
    }
    return out;
  }

  const lq = planesOf(photo, height, width);
  const y = upsampled(lq, height, width, s);
  const yHat = await blended(new Float32Array(y.length), async (window) => {
    const sr = await networks.g({ lq: [cut(lq, height, width, window), [1, 3, window.height, window.width]] });
    return stateOf(sr.map((value) => 2 * value - 1), window.height, window.width, s);
  });
  const finished = (state) => bytesOf(state, width, s, photo.height * s, photo.width * s);
  if (!timesteps.length) return finished(yHat);

  const identity = await identityOf(rgbOf(photo), photo.height, photo.width);
  const noise = (k) => noiseField(seed, identity, k, y.length / size, height, width);
  // Computed where it is needed: as an array it would be as large as the result.
  const weight = (i) => plan.b_u + (1 - plan.b_u) * Math.min(Math.abs(yHat[i] - y[i]) / 4 / plan.psi_max, 1);
  const shown = plan.sr_condition ? [yHat, y] : [y];
  const base = plan.estimate === "residual" ? shown[0] : null;

  async function estimate(x, t, window) {
    const sides = [window.height, window.width];
    const deviation = Math.sqrt(plan.noise_power * plan.kappa ** 2 * plan.etas[t] + plan.data_variance);
    const features = joined(shown.map((state) => cut(state, height, width, window)));
    const image = await networks.denoiser({
      x: [cut(x, height, width, window).map((value) => value / deviation), [1, y.length / size, ...sides]],
      t: [BigInt64Array.of(BigInt(t)), [1]],
      features: [features, [1, features.length / (window.height * window.width), ...sides]],
    });
    const found = stateOf(image, window.height, window.width, s);
    if (base) cut(base, height, width, window).forEach((value, i) => (found[i] += value));
    return found;
  }

  const start = plan.kappa * Math.sqrt(plan.etas[timesteps[0]]);
  const x = noise(0);
  for (let i = 0; i < x.length; i++) x[i] = y[i] + start * weight(i) * x[i];
  const clean = new Float32Array(x.length);
  for (let k = 0; k < timesteps.length; k++) {
    await blended(clean, (window) => estimate(x, timesteps[k], window));
    if (k + 1 < timesteps.length) step(x, clean, y, weight, plan, timesteps[k], timesteps[k + 1], () => noise(k + 1));
  }
  for (let i = 0; i < clean.length; i++) clean[i] = (1 - plan.g_share) * clamped(clean[i]) + plan.g_share * clamped(yHat[i]);
  return finished(clean);
}

/** One reverse step, in place. */
function step(x, clean, y, weight, plan, t, after, noise) {
  const [eta, next] = [plan.etas[t], plan.etas[after]];
  if (plan.sampler === "ddim") {
    const m = Math.sqrt(next / eta);
    const [ofClean, ofY] = [1 - next - (1 - eta) * m, next - eta * m];
    for (let i = 0; i < x.length; i++) x[i] = m * x[i] + ofClean * clean[i] + ofY * y[i];
  } else {
    const share = next / eta;
    const deviation = plan.kappa * Math.sqrt(share * (eta - next));
    const drawn = noise();
    for (let i = 0; i < x.length; i++) x[i] = share * x[i] + (1 - share) * clean[i] + deviation * weight(i) * drawn[i];
  }
}

/** In [-1, 1]; what is no colour stays none, for bytesOf to find. */
function clamped(value) {
  return Number.isFinite(value) ? Math.min(Math.max(value, -1), 1) : NaN;
}

function rgbOf({ pixels }) {
  const rgb = new Uint8Array((pixels.length / 4) * 3);
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    rgb[to++] = pixels[from];
    rgb[to++] = pixels[from + 1];
    rgb[to++] = pixels[from + 2];
  }
  return rgb;
}

function joined(parts) {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}
