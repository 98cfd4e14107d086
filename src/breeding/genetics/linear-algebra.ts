/**
 * Dense symmetric positive definite systems in flat arrays, for matrices of a few hundred rows.
 * Indices are bounded by the loops, so element reads are asserted (`as number`) here and only here and in model.ts:
 * a check per read would double the cost of the innermost loops.
 */

/** Position of element (i, j) of a symmetric matrix stored as packed lower triangle. */
export const packed = (i: number, j: number): number => (i >= j ? (i * (i + 1)) / 2 + j : (j * (j + 1)) / 2 + i);

/** Replaces the lower triangle of the row-major n×n matrix by its Cholesky factor L; false if not positive definite. */
export function choleskyInPlace(a: Float64Array, n: number): boolean {
  for (let i = 0; i < n; i++) {
    const rowI = i * n;
    for (let j = 0; j <= i; j++) {
      const rowJ = j * n;
      let sum = a[rowI + j] as number;
      for (let k = 0; k < j; k++) sum -= (a[rowI + k] as number) * (a[rowJ + k] as number);
      if (i === j) {
        if (!(sum > 0)) return false;
        a[rowI + i] = Math.sqrt(sum);
      } else {
        a[rowI + j] = sum / (a[rowJ + j] as number);
      }
    }
  }
  return true;
}

/** Solves L x = b in place. */
export function forwardSubstitute(l: Float64Array, n: number, b: Float64Array): void {
  for (let i = 0; i < n; i++) {
    const row = i * n;
    let sum = b[i] as number;
    for (let k = 0; k < i; k++) sum -= (l[row + k] as number) * (b[k] as number);
    b[i] = sum / (l[row + i] as number);
  }
}

/** Solves Lᵀ x = b in place. */
export function backSubstitute(l: Float64Array, n: number, b: Float64Array): void {
  for (let i = n - 1; i >= 0; i--) {
    const row = i * n;
    const x = (b[i] as number) / (l[row + i] as number);
    b[i] = x;
    for (let k = 0; k < i; k++) b[k] = (b[k] as number) - (l[row + k] as number) * x;
  }
}

/** (L Lᵀ)⁻¹ as packed lower triangle. */
export function inverseFromCholesky(l: Float64Array, n: number): Float64Array {
  // Row i of r holds column i of L⁻¹ from its diagonal on, so that every inner loop runs along a row.
  const r = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const rowI = i * n;
    r[rowI + i] = 1 / (l[rowI + i] as number);
    for (let k = i + 1; k < n; k++) {
      const rowK = k * n;
      let sum = 0;
      for (let m = i; m < k; m++) sum -= (l[rowK + m] as number) * (r[rowI + m] as number);
      r[rowI + k] = sum / (l[rowK + k] as number);
    }
  }
  const inverse = new Float64Array((n * (n + 1)) / 2);
  for (let i = 0, at = 0; i < n; i++) {
    const rowI = i * n;
    for (let j = 0; j <= i; j++, at++) {
      const rowJ = j * n;
      let sum = 0;
      for (let k = i; k < n; k++) sum += (r[rowI + k] as number) * (r[rowJ + k] as number);
      inverse[at] = sum;
    }
  }
  return inverse;
}
