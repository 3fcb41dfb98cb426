// Photos from files to pixels, and results to files.

/** {width, height, pixels: RGBA bytes, image} of a file. The browser turns it upright and converts its colours to sRGB. */
export async function readPhoto(file, maxPixels) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no photo that this browser reads; save it as JPEG or PNG`);
  }
  const { width, height } = image;
  if (width * height > maxPixels) {
    const most = (maxPixels / 1e6).toLocaleString("en");
    throw new Error(`${file.name} has ${width} x ${height} pixels; this page takes up to ${most} megapixels: crop it first`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // below what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  return { width, height, pixels: context.getImageData(0, 0, width, height).data, image };
}

/** Shows RGBA bytes on a canvas. (One without alpha: its PNG has three channels then.) */
export function show(canvas, bytes, width, height) {
  Object.assign(canvas, { width, height });
  canvas.getContext("2d", { alpha: false }).putImageData(new ImageData(bytes, width, height), 0, 0);
}

/** Shows an image on a canvas, enlarged by the browser. */
export function showEnlarged(canvas, image, width, height) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
}

/** An address of the canvas as a PNG file. */
export function pngOf(canvas) {
  return new Promise((made, failed) => {
    canvas.toBlob((blob) => (blob ? made(URL.createObjectURL(blob)) : failed(new Error("no PNG could be made of the result"))));
  });
}
