/** The page that a run of the demo leaves behind: one HTML file with its pictures inside, no script, no network. */

export type EpochPoint = {
  epoch: number;
  loss: number | null;
  accuracy: number | null;
  extra_metrics: Record<string, number | null>;
};

export type Sample = {
  png: Uint8Array;
  trueLabel: string;
  predictions: { label: string; confidence: number }[];
};

export type TraitLine = { name: string; value: number; unit: string; lower: number; upper: number; confidence: number };

/** One predicted cross and the index of every possible one. */
export type BreedingData = {
  mother: string;
  father: string;
  traits: TraitLine[];
  shape: { value: string; confidence: number };
  overallScore: number;
  recommendation: string;
  pictures: { title: string; png: Uint8Array }[];
  crosses: { mother: string; father: string; index: number }[];
};

export type ReportData = {
  title: string;
  madeAt: string;
  facts: [name: string, value: string][];
  epochs: EpochPoint[];
  labels: string[];
  /** Rows are true classes. */
  confusion: number[][];
  confusionEpoch: number;
  samples: Sample[];
  breeding: BreedingData;
};

const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);

type Series = { name: string; color: string; points: [x: number, y: number][] };

const CHART = { width: 460, height: 240, left: 44, right: 12, top: 14, bottom: 30 };

/** A step of 1, 2 or 5 times a power of ten that divides a range into about `count` parts. */
function niceStep(range: number, count: number): number {
  const raw = range / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = raw / power;
  return power * (factor <= 1 ? 1 : factor <= 2 ? 2 : factor <= 5 ? 5 : 10);
}

function chart(title: string, series: Series[], bounds: { min?: number; max?: number } = {}): string {
  const points = series.flatMap((line) => line.points);
  const lastX = Math.max(2, ...points.map(([x]) => x));
  const min = bounds.min ?? 0;
  const max = bounds.max ?? Math.max(0.001, ...points.map(([, y]) => y)) * 1.05;
  const x = (value: number) => CHART.left + ((value - 1) / (lastX - 1)) * (CHART.width - CHART.left - CHART.right);
  const y = (value: number) =>
    CHART.height - CHART.bottom - ((value - min) / (max - min)) * (CHART.height - CHART.top - CHART.bottom);
  const stepY = niceStep(max - min, 5);
  const stepX = Math.max(1, Math.ceil(lastX / 10));
  const gridY = Array.from({ length: Math.floor((max - min) / stepY + 1e-9) + 1 }, (_, i) => min + i * stepY).map(
    (value) =>
      `<line class="grid" x1="${CHART.left}" x2="${CHART.width - CHART.right}" y1="${y(value)}" y2="${y(value)}"/>` +
      `<text class="tick" x="${CHART.left - 7}" y="${y(value) + 4}" text-anchor="end">${Number(value.toFixed(4))}</text>`,
  );
  const gridX = Array.from({ length: Math.ceil(lastX / stepX) }, (_, i) => 1 + i * stepX).map(
    (value) => `<text class="tick" x="${x(value)}" y="${CHART.height - 10}" text-anchor="middle">${value}</text>`,
  );
  const lines = series.map(
    ({ color, points: line }) =>
      `<polyline fill="none" stroke="${color}" stroke-width="2.5" stroke-linejoin="round" points="${line.map(([px, py]) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`).join(" ")}"/>` +
      line
        .map(
          ([px, py]) =>
            `<circle cx="${x(px).toFixed(1)}" cy="${y(py).toFixed(1)}" r="3" fill="${color}"><title>epoch ${px}: ${py.toFixed(4)}</title></circle>`,
        )
        .join(""),
  );
  const legend = series.map(({ name, color }) => `<span><i style="background:${color}"></i>${escapeHtml(name)}</span>`);
  return `<figure><figcaption>${escapeHtml(title)}<span class="legend">${legend.join("")}</span></figcaption>
<svg viewBox="0 0 ${CHART.width} ${CHART.height}" role="img" aria-label="${escapeHtml(title)}">${gridY.join("")}${gridX.join("")}${lines.join("")}</svg></figure>`;
}

/** Points of one value over the epochs, without those where it was not measured. */
const over = (epochs: EpochPoint[], value: (point: EpochPoint) => number | null | undefined): [number, number][] =>
  epochs.flatMap((point) => {
    const y = value(point);
    return typeof y === "number" ? [[point.epoch, y] as [number, number]] : [];
  });

function confusionTable(labels: string[], matrix: number[][]): string {
  const largest = Math.max(1, ...matrix.flat());
  const head = labels.map((label) => `<th scope="col">${escapeHtml(label)}</th>`).join("");
  const rows = matrix.map((row, i) => {
    const cells = row.map((count, j) => {
      const share = count / largest;
      const color = i === j ? "46, 125, 80" : "200, 70, 50";
      const alpha = count === 0 ? 0 : 0.12 + 0.88 * share;
      return `<td style="background:rgba(${color},${alpha.toFixed(3)});color:${alpha > 0.55 ? "#fff" : "inherit"}">${count || "·"}</td>`;
    });
    return `<tr><th scope="row">${escapeHtml(labels[i] ?? String(i))}</th>${cells.join("")}</tr>`;
  });
  return `<table class="confusion"><thead><tr><th></th>${head}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

function sampleCard(sample: Sample): string {
  const [best] = sample.predictions;
  const right = best?.label === sample.trueLabel;
  const bars = sample.predictions
    .slice(0, 3)
    .map(
      ({ label, confidence }) =>
        `<li><b>${escapeHtml(label)}</b><span class="bar"><i style="width:${(confidence * 100).toFixed(1)}%"></i></span><em>${(confidence * 100).toFixed(1)}%</em></li>`,
    );
  return `<div class="card ${right ? "right" : "wrong"}"><img alt="digit ${escapeHtml(sample.trueLabel)}" src="${pngSource(sample.png)}">
<div><p>${right ? "✓" : "✗"} true ${escapeHtml(sample.trueLabel)}</p><ol>${bars.join("")}</ol></div></div>`;
}

const pngSource = (png: Uint8Array): string => `data:image/png;base64,${Buffer.from(png).toString("base64")}`;

/** From red over grey to green, by place in the range. */
function heatColor(share: number): string {
  const [r, g, b] = share < 0.5 ? [200, 70, 50] : [46, 125, 80];
  return `rgba(${r},${g},${b},${(Math.abs(share - 0.5) * 2).toFixed(3)})`;
}

/** All crosses at a glance: mothers down, fathers across, both ordered by their mean index, best first. */
function heatMap(crosses: BreedingData["crosses"]): string {
  const meanOf = (side: "mother" | "father") => {
    const sums = new Map<string, { sum: number; n: number }>();
    for (const cross of crosses) {
      const { sum, n } = sums.get(cross[side]) ?? { sum: 0, n: 0 };
      sums.set(cross[side], { sum: sum + cross.index, n: n + 1 });
    }
    return [...sums].sort(([, a], [, b]) => b.sum / b.n - a.sum / a.n).map(([id]) => id);
  };
  const mothers = meanOf("mother");
  const fathers = meanOf("father");
  const row = new Map(mothers.map((id, i) => [id, i]));
  const column = new Map(fathers.map((id, i) => [id, i]));
  const values = crosses.map((cross) => cross.index);
  const min = Math.min(...values);
  const range = Math.max(...values) - min || 1;
  const [size, left, top] = [12, 58, 58];
  const cells = crosses.map(({ mother, father, index }) => {
    const x = left + (column.get(father) ?? 0) * size;
    const y = top + (row.get(mother) ?? 0) * size;
    const title = `${escapeHtml(mother)} × ${escapeHtml(father)}: ${index.toFixed(2)}`;
    return `<rect x="${x}" y="${y}" width="${size - 1}" height="${size - 1}" rx="2" fill="${heatColor((index - min) / range)}"><title>${title}</title></rect>`;
  });
  const rowNames = mothers.map(
    (id, i) =>
      `<text class="strain" x="${left - 4}" y="${top + i * size + 9}" text-anchor="end">${escapeHtml(id)}</text>`,
  );
  const columnNames = fathers.map((id, i) => {
    const x = left + i * size + 9;
    return `<text class="strain" x="${x}" y="${top - 4}" transform="rotate(-90 ${x} ${top - 4})">${escapeHtml(id)}</text>`;
  });
  const width = left + fathers.length * size;
  const height = top + mothers.length * size;
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Index of every possible cross">${cells.join("")}${rowNames.join("")}${columnNames.join("")}</svg>`;
}

function breedingSection(data: BreedingData): string {
  const rows = data.traits.map(
    ({ name, value, unit, lower, upper, confidence }) =>
      `<tr><th scope="row">${escapeHtml(name)}</th><td>${value} ${escapeHtml(unit)}</td><td>${lower} to ${upper}</td><td>${Math.round(confidence * 100)} %</td></tr>`,
  );
  const pictures = data.pictures.map(
    ({ title, png }) =>
      `<figure><img class="fruit" alt="${escapeHtml(title)}" src="${pngSource(png)}"><p class="lead">${escapeHtml(title)}</p></figure>`,
  );
  return `<h2>Breeding: ${escapeHtml(data.mother)} × ${escapeHtml(data.father)} (mother × father, sample strains)</h2>
<div class="cross"><div class="panel"><table class="traits"><thead><tr><th></th><th>predicted</th><th>80 % interval</th><th>confidence</th></tr></thead>
<tbody>${rows.join("")}<tr><th scope="row">shape</th><td>${escapeHtml(data.shape.value)}</td><td></td><td>${Math.round(data.shape.confidence * 100)} %</td></tr></tbody></table>
<p>Overall score ${data.overallScore} of 5</p><p lang="ko">${escapeHtml(data.recommendation)}</p></div>${pictures.join("")}</div>
<h2>Index of all ${data.crosses.length} possible crosses (mothers down, fathers across; green is better)</h2>
<div class="panel wide">${heatMap(data.crosses)}</div>`;
}

const STYLE = `
:root{color-scheme:light dark;--bg:#f6f7f4;--card:#fff;--ink:#1d2420;--soft:#68736c;--line:#e2e6e0;--green:#2e7d50;--red:#c84632}
@media(prefers-color-scheme:dark){:root{--bg:#141816;--card:#1d2320;--ink:#e8ece9;--soft:#97a39b;--line:#2c3530;--green:#57b583;--red:#e57b69}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1020px;margin:0 auto;padding:40px 24px 64px}h1{font-size:28px;margin:0}h2{font-size:18px;margin:40px 0 14px}
.lead{color:var(--soft);margin:4px 0 24px}.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.facts div,figure,.panel{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px;margin:0}
.facts dt{color:var(--soft);font-size:12.5px}.facts dd{margin:2px 0 0;font-size:20px;font-weight:600;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:16px}figcaption{font-weight:600;display:flex;justify-content:space-between;margin-bottom:6px}
.legend{font-weight:400;color:var(--soft);font-size:13px;display:flex;gap:14px}.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
svg{width:100%;height:auto;display:block}.grid{stroke:var(--line)}.tick{fill:var(--soft);font-size:11px}
.confusion{border-collapse:separate;border-spacing:3px;font-variant-numeric:tabular-nums}.confusion td{width:44px;height:36px;text-align:center;border-radius:6px}
.confusion th{color:var(--soft);font-weight:500;min-width:28px}.panel{display:inline-block;overflow-x:auto;max-width:100%}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(225px,1fr));gap:12px}.card{display:flex;gap:12px;background:var(--card);border:1px solid var(--line);border-left:4px solid var(--green);border-radius:10px;padding:10px}
.card.wrong{border-left-color:var(--red)}.card img{width:64px;height:64px;image-rendering:pixelated;border-radius:6px}.card div{flex:1}.card p{margin:0 0 4px;font-weight:600}
.card ol{list-style:none;margin:0;padding:0;font-size:12.5px}.card li{display:flex;align-items:center;gap:6px}.bar{flex:1;height:6px;border-radius:3px;background:var(--line);overflow:hidden}.bar i{display:block;height:100%;background:var(--green)}
.wrong .bar i{background:var(--red)}.cross{display:grid;grid-template-columns:minmax(400px,1.5fr) 1fr 1fr;gap:16px;align-items:start}@media(max-width:900px){.cross{grid-template-columns:1fr}}
.traits{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}.traits th,.traits td{padding:4px 6px;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}.traits th{font-weight:500;color:var(--soft)}
.fruit{width:100%;border-radius:8px}.cross figure p{margin:6px 0 0}.wide{display:block}.strain{fill:var(--soft);font-size:8px}.card em{font-style:normal;color:var(--soft);width:46px;text-align:right}`;

/** The whole page. Everything that comes from outside is escaped. */
export function renderReport(data: ReportData): string {
  const facts = data.facts.map(
    ([name, value]) => `<div><dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd></div>`,
  );
  const loss = chart("Loss", [
    { name: "training", color: "#c2803a", points: over(data.epochs, (point) => point.loss) },
    { name: "validation", color: "#3a6fc2", points: over(data.epochs, (point) => point.extra_metrics.val_loss) },
  ]);
  const accuracy = chart(
    "Accuracy",
    [
      { name: "training", color: "#c2803a", points: over(data.epochs, (point) => point.extra_metrics.train_accuracy) },
      { name: "validation", color: "#3a6fc2", points: over(data.epochs, (point) => point.accuracy) },
    ],
    { max: 1 },
  );
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>${escapeHtml(data.title)}</title><style>${STYLE}</style></head><body><main>
<h1>${escapeHtml(data.title)}</h1><p class="lead">${escapeHtml(data.madeAt)}</p>
<dl class="facts">${facts.join("")}</dl>
<h2>Training</h2><div class="charts">${loss}${accuracy}</div>
<h2>Validation at the best epoch, ${data.confusionEpoch} (rows are true classes)</h2><div class="panel">${confusionTable(data.labels, data.confusion)}</div>
<h2>Images the model has never seen</h2><div class="cards">${data.samples.map(sampleCard).join("")}</div>
${breedingSection(data.breeding)}
</main></body></html>
`;
}
