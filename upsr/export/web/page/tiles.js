// Windows of a photo and the weights they are blended with: grid_windows in upsr/tiling/windows.py.

const ALIGNMENT = 8; // windows start at multiples of it
const MOST_AREA = 1.5; // of a window, in areas of a tile
const MOST_SIDE = 2; // of a window, in sides of a tile

/**
 * Windows {top, left, height, width, down, across} that cover height x width, the largest first; weights of all windows at a
 * pixel add up to 1.
 */
export function windowsOf(height, width, tile, multiple) {
  const side = Math.max(Math.floor(tile.size / multiple), 1);
  const alignment = gcd(ALIGNMENT, multiple);
  const half = Math.floor((side * multiple) / 2 / alignment);
  const overlap = Math.min(Math.ceil(tile.overlap / alignment), half) * alignment;
  const [rows, columns] = leastWork(height, width, side, overlap, multiple).map((side) => windowsAlong(side, alignment));
  const windows = rows.flatMap((row) =>
    columns.map((column) => ({
      top: row.start,
      left: column.start,
      height: row.weights.length,
      width: column.weights.length,
      down: row.weights,
      across: column.weights,
    })),
  );
  return windows.sort((a, b) => b.height - a.height || b.width - a.width);
}

/** The division of rows and columns for tiles of `side` multiples. */
function leastWork(height, width, side, overlap, multiple) {
  const inCount = (length, count) => {
    const total = Math.ceil((length + (count - 1) * overlap) / multiple);
    return { length, count, total, largest: Math.ceil(total / count), multiple };
  };
  const inWindows = (length, most) =>
    inCount(length, Math.max(Math.ceil((length - overlap) / (most * multiple - overlap)), 1));
  if (Math.max(height, width) <= side * multiple) return [inWindows(height, side), inWindows(width, side)];
  const divisions = [];
  // Lower windows than these cannot be wider.
  const low = Math.max(Math.floor((MOST_AREA * side) / MOST_SIDE), Math.floor(overlap / multiple) + 1);
  const last = inWindows(height, low).count;
  for (let count = inWindows(height, MOST_SIDE * side).count; count <= last; count++) {
    const rows = inCount(height, count);
    const wide = Math.min(MOST_SIDE * side, Math.floor((MOST_AREA * side ** 2) / rows.largest));
    if (wide * multiple > overlap) divisions.push([rows, inWindows(width, wide)]);
  }
  const work = ([rows, columns]) => rows.total * columns.total;
  const largest = ([rows, columns]) => rows.largest * columns.largest;
  return divisions.sort((a, b) => work(a) - work(b) || largest(a) - largest(b))[0];
}

function windowsAlong({ length, count, total, multiple }, alignment) {
  const ends = Array.from({ length: count + 1 }, (_, i) => Math.floor((i * total) / count) * multiple);
  const shared = (total * multiple - length) / alignment;
  const gaps = Math.max(count - 1, 1);
  const windows = Array.from({ length: count }, (_, i) => ({
    start: ends[i] - Math.floor((i * shared) / gaps) * alignment,
    bell: bell(ends[i + 1] - ends[i]),
  }));
  const sum = new Float64Array(length);
  for (const { start, bell } of windows) bell.forEach((value, i) => (sum[start + i] += value));
  return windows.map(({ start, bell }) => ({ start, weights: Float32Array.from(bell, (value, i) => value / sum[start + i]) }));
}

function bell(size) {
  return Float64Array.from({ length: size }, (_, i) => Math.exp(-0.5 * ((i - (size - 1) / 2) / (size / 8)) ** 2));
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}
