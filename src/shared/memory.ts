/**
 * Gives the memory behind a view back at once. Left to itself an array of megabytes stays until the next garbage collection,
 * and a few of them fill an isolate. Nothing happens to a view of a part of its buffer: somebody else may use the rest.
 * The view is empty afterwards.
 */
export function release(view: ArrayBufferView): void {
  const { buffer, byteLength } = view;
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength && byteLength > 0) buffer.transfer(0);
}

/** The parts one behind the other, in a buffer of its own. */
export function concatenate(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
