// Windows of a photo and the weights they are blended with: axis_windows in upsr/tiling/windows.py.

const ALIGNMENT = 8; // windows start at multiples of it

/** Windows {top, left, height, width, down, across} that cover height x width; weights of all windows at a pixel add up to 1. */
export function windowsOf(height, width, tile, multiple) {
  const rows = axisWindows(height, tile, multiple);
  const columns = axisWindows(width, tile, multiple);
  return rows.flatMap((row) =>
    columns.map((column) => ({
      top: row.start,
      left: column.start,
      height: row.weights.length,
      width: column.weights.length,
      down: row.weights,
      across: column.weights,
    })),
  );
}

function axisWindows(length, tile, multiple) {
  const most = Math.min(Math.max(Math.floor(tile.size / multiple), 1) * multiple, length);
  const overlap = Math.min(tile.overlap, Math.floor(most / 2));
  const sizeOf = (count) => Math.ceil((length + (count - 1) * overlap) / count / multiple) * multiple;
  const fewest = Math.max(Math.ceil((length - overlap) / (most - overlap)), 1);
  const [count] = [fewest, fewest + 1, fewest + 2]
    .filter((n) => sizeOf(n) <= most)
    .sort((a, b) => a * sizeOf(a) - b * sizeOf(b));
  const size = sizeOf(count);
  const alignment = gcd(ALIGNMENT, multiple);
  const apart = (length - size) / Math.max(count - 1, 1);
  const places = Array.from({ length: count }, (_, i) => roundedToEven((i * apart) / alignment) * alignment);
  const starts = [...new Set(places)].sort((a, b) => a - b);
  const bell = Float64Array.from({ length: size }, (_, i) => Math.exp(-0.5 * ((i - (size - 1) / 2) / (size / 8)) ** 2));
  const total = new Float64Array(length);
  for (const start of starts) bell.forEach((value, i) => (total[start + i] += value));
  return starts.map((start) => ({ start, weights: Float32Array.from(bell, (value, i) => value / total[start + i]) }));
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

function roundedToEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}
