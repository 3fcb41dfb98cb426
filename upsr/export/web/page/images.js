// Images as planes of numbers. A "state" is an image whose s x s cells are channels: (C*s*s, h, w) for (C, s*h, s*w).

/** RGBA bytes as three planes in [0, 1], extended by reflection to `height` x `width` (without the border row, back and forth). */
export function planesOf(photo, height, width) {
  const rows = reflected(photo.height, height);
  const columns = reflected(photo.width, width);
  const planes = new Float32Array(3 * height * width);
  for (let c = 0, at = 0; c < 3; c++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) planes[at++] = photo.pixels[4 * (rows[y] * photo.width + columns[x]) + c] / 255;
  return planes;
}

function reflected(size, target) {
  const period = Math.max(2 * (size - 1), 1);
  return Array.from({ length: target }, (_, i) => (size > 1 ? Math.min(i % period, period - (i % period)) : 0));
}

/** Bicubic upsampling (a = -0.75, border pixels repeated) of planes in [0, 1], as a state in [-1, 1]. */
export function upsampled(planes, height, width, s) {
  const down = taps(height, s);
  const across = taps(width, s);
  const size = height * width;
  const state = new Float32Array(3 * s * s * size);
  const wide = new Float64Array(height * width * s);
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width * s; x++) {
        let sum = 0;
        for (const [column, weight] of across[x]) sum += weight * (2 * planes[c * size + y * width + column] - 1);
        wide[y * width * s + x] = sum;
      }
    for (let y = 0; y < height * s; y++)
      for (let x = 0; x < width * s; x++) {
        let sum = 0;
        for (const [row, weight] of down[y]) sum += weight * wide[row * width * s + x];
        state[cell(c, y, x, s) * size + Math.floor(y / s) * width + Math.floor(x / s)] = sum;
      }
  }
  return state;
}

/** Of each row of the larger image: four rows of the smaller one, and their weights. */
function taps(size, s) {
  const a = -0.75;
  return Array.from({ length: size * s }, (_, i) => {
    const place = (i + 0.5) / s - 0.5;
    return [-1, 0, 1, 2].map((step) => {
      const row = Math.floor(place) + step;
      const d = Math.abs(place - row);
      const weight = d <= 1 ? (a + 2) * d ** 3 - (a + 3) * d ** 2 + 1 : a * (d ** 3 - 5 * d ** 2 + 8 * d - 4);
      return [Math.min(Math.max(row, 0), size - 1), weight];
    });
  });
}

/** The state of an image (C, s*h, s*w). */
export function stateOf(image, height, width, s) {
  const state = new Float32Array(image.length);
  const channels = image.length / (height * width * s * s);
  for (let c = 0, at = 0; c < channels; c++)
    for (let y = 0; y < height * s; y++)
      for (let x = 0; x < width * s; x++)
        state[(cell(c, y, x, s) * height + Math.floor(y / s)) * width + Math.floor(x / s)] = image[at++];
  return state;
}

function cell(c, y, x, s) {
  return (c * s + (y % s)) * s + (x % s);
}

/** A window of planes, of a state or of an image: (N, height, width) of (N, rows, columns). */
export function cut(planes, rows, columns, window) {
  const count = planes.length / (rows * columns);
  const part = new Float32Array(count * window.height * window.width);
  for (let n = 0, at = 0; n < count; n++)
    for (let y = 0; y < window.height; y++, at += window.width) {
      const first = (n * rows + window.top + y) * columns + window.left;
      part.set(planes.subarray(first, first + window.width), at);
    }
  return part;
}

/** Adds a window's state, weighted, in its place. */
export function addWeighted(out, rows, columns, window, part) {
  const count = out.length / (rows * columns);
  for (let n = 0, at = 0; n < count; n++)
    for (let y = 0; y < window.height; y++) {
      const first = (n * rows + window.top + y) * columns + window.left;
      for (let x = 0; x < window.width; x++) out[first + x] += part[at++] * Math.fround(window.down[y] * window.across[x]);
    }
}

/** RGBA bytes, `height` x `width`, of the top left of a state in [-1, 1] that is `columns` cells wide. */
export function bytesOf(state, columns, s, height, width) {
  const size = state.length / (3 * s * s);
  const bytes = new Uint8ClampedArray(4 * height * width).fill(255); // rounds halves to even, as the command does
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const place = Math.floor(y / s) * columns + Math.floor(x / s);
      for (let c = 0; c < 3; c++) {
        const value = state[cell(c, y, x, s) * size + place];
        if (!Number.isFinite(value)) throw new Error("the networks gave numbers that are no colours; try the processor instead");
        bytes[4 * (y * width + x) + c] = ((Math.min(Math.max(value, -1), 1) + 1) / 2) * 255;
      }
    }
  return bytes;
}
