/** What of an outbox is sent next (runner protocol, section 5). Pure. */

export type Cursor = {
  /** The server has everything up to here. */
  acked: number;
  /** Sent at least once up to here. */
  sent: number;
  /** Of what was sent: ranges that the server says it lacks. */
  missing: readonly (readonly [number, number])[];
};

export type BatchLimits = { maxEvents: number; maxBytes: number };

/**
 * Numbers of the next batch in ascending order: first what the server misses, then what it has not seen. A batch holds at
 * least one, however large it is.
 * @param last highest number that is on disk
 * @param bytesOf size of a record as it is sent; 0 for one that is not there any more
 */
export function nextBatch(
  cursor: Cursor,
  last: number,
  limits: BatchLimits,
  bytesOf: (seq: number) => number,
): number[] {
  const batch: number[] = [];
  let bytes = 0;
  for (const seq of wanted(cursor, last)) {
    // One for the comma between two.
    bytes += bytesOf(seq) + 1;
    if (batch.length > 0 && (bytes > limits.maxBytes || batch.length === limits.maxEvents)) break;
    batch.push(seq);
  }
  return batch;
}

function* wanted({ acked, sent, missing }: Cursor, last: number): Generator<number> {
  for (const [first, end] of missing) {
    for (let seq = Math.max(first, acked + 1); seq <= Math.min(end, sent); seq += 1) yield seq;
  }
  for (let seq = Math.max(sent, acked) + 1; seq <= last; seq += 1) yield seq;
}

/**
 * The cursor after an answer.
 * @param batch what was sent, ascending
 * @returns with `missing` holding only numbers that were sent: an answer may know of gaps that are still under way
 */
export function advanceCursor(
  cursor: Cursor,
  batch: readonly number[],
  answer: { ackSeq: number; missing: readonly (readonly [number, number])[] },
): Cursor {
  // The server's word, also when it goes back: then it has lost what it had, and says from where.
  const acked = answer.ackSeq;
  const sent = Math.max(cursor.sent, acked, ...batch.slice(-1));
  const gaps = answer.missing.length > 0 ? answer.missing : acked < sent ? ([[acked + 1, sent]] as const) : [];
  return { acked, sent, missing: gaps.filter(([first, end]) => end > acked && first <= sent) };
}
