import { z } from "zod";
import type { JsonObject, TopPrediction } from "../../db/schema/index.ts";
import { err, ok, type Result } from "../../shared/result.ts";
import { type Outcome, type Reason, reasonOf } from "./reasons.ts";

/**
 * What a trainer reports, from its wire form to the few shapes that the job's object stores (runner protocol, section 5).
 * Pure. Unknown keys are ignored, metric names are free text, a number that is not finite becomes null with a flag.
 */

export type Metric = {
  type: "metric";
  epoch: number;
  step: number;
  loss: number | null;
  accuracy: number | null;
  learningRate: number | null;
  extraMetrics: Record<string, number | null>;
  nonFinite: string[] | null;
};

export type ImageResult = {
  imagePath: string | null;
  imageName: string;
  trueLabel: string | null;
  trueLabelId: number | null;
  predictedLabel: string | null;
  predictedLabelId: number | null;
  confidence: number | null;
  isCorrect: boolean | null;
  top5Predictions: TopPrediction[] | null;
  extraData: JsonObject | null;
};

export type Validation = {
  type: "validation";
  epoch: number;
  taskType: string | null;
  primaryMetricName: string | null;
  primaryMetricValue: number | null;
  overallLoss: number | null;
  metrics: Record<string, number | null>;
  perClassMetrics: Record<string, JsonObject> | null;
  confusionMatrix: number[][] | null;
  classNames: string[] | null;
  checkpointPath: string | null;
  images: ImageResult[];
};

export type Report =
  | { type: "started"; totalEpochs: number | null }
  | Metric
  | Validation
  | { type: "validationImages"; epoch: number; offset: number; images: ImageResult[] }
  | { type: "checkpoint"; artifactId: string; epoch: number; role: "best" | "last" | null }
  | { type: "log"; stream: "stdout" | "stderr"; lines: string[]; atMs: number | null }
  | {
      type: "end";
      outcome: Outcome | "released";
      reason: Reason;
      message: string | null;
      logChunks: { stdout: number; stderr: number } | null;
      chunksFailed: number;
    };

/** One event of a batch as the object takes it. `mlflowRunId` may ride on any event. */
export type NumberedReport = { seq: number; report: Report; mlflowRunId: string | null };
/** One event without a number: `identity` stands for it inside its attempt, null when a repeat does no harm. */
export type UnnumberedReport = { identity: string | null; report: Report; mlflowRunId: string | null };
export type RejectedReport = { seq: number; code: string; field: string | null; message: string };

export const MAX_EPOCH = 1_000_000;
export const MAX_STEP = 1_000_000_000_000;
const MAX_IMAGES_PER_EVENT = 500;
const MAX_CLASSES = 2_000;
const MAX_LOG_LINES = 10_000;
const MAX_TEXT = 4_000;

/** As Python, JavaScript and others print them; `1e400` in a body arrives as a number that is not finite. */
const NON_FINITE = /^[+-]?(?:nan|inf|infinity)$/i;

/** A number, or null when it is absent or not finite (also as a text such as "NaN"). */
const measured = z
  .unknown()
  .optional()
  .transform((value, context) => {
    if (value === undefined || value === null) return null;
    if (typeof value === "number") return Number.isFinite(value) ? value : null;
    if (typeof value === "string" && NON_FINITE.test(value.trim())) return null;
    context.addIssue({ code: "custom", message: "must be a number" });
    return z.NEVER;
  });

/** Whether the sender gave something for this value that could not be kept as a number. */
const lost = (raw: unknown, kept: number | null) => raw !== undefined && raw !== null && kept === null;

const epoch = z.number().int().min(0).max(MAX_EPOCH);
const text = z.string().max(MAX_TEXT);
const optionalText = text.nullish().transform((value) => value ?? null);

/** A record that keeps odd names such as `__proto__` as plain data. */
const ownEntries = (record: object) => Object.entries(record);
const fromOwnEntries = <T>(entries: [string, T][]): Record<string, T> => {
  const record: Record<string, T> = {};
  for (const [key, value] of entries) {
    Object.defineProperty(record, key, { value, enumerable: true, configurable: true, writable: true });
  }
  return record;
};

type MetricNameLimits = { names: number; nameLength: number };
const looseObject = z.custom<Record<string, unknown>>(
  (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  "must be an object",
);

const metricRecord = (limits: MetricNameLimits) =>
  looseObject.nullish().transform((raw, context): { values: Record<string, number | null>; nonFinite: string[] } => {
    const nonFinite: string[] = [];
    const entries = ownEntries(raw ?? {});
    if (entries.length > limits.names) {
      context.addIssue({ code: "custom", message: `at most ${limits.names} metric names` });
      return z.NEVER;
    }
    const values: [string, number | null][] = [];
    for (const [name, value] of entries) {
      const parsed = measured.safeParse(value);
      if (name.length > limits.nameLength || !parsed.success) {
        context.addIssue({
          code: "custom",
          path: [name.slice(0, 50)],
          message: "is not a metric (a short name and a number)",
        });
        return z.NEVER;
      }
      if (lost(value, parsed.data)) nonFinite.push(name);
      values.push([name, parsed.data]);
    }
    return { values: fromOwnEntries(values), nonFinite };
  });

const ImageSchema = z
  .object({
    image_path: optionalText,
    image_name: text,
    true_label: optionalText,
    true_label_id: z.number().int().nullish(),
    predicted_label: optionalText,
    predicted_label_id: z.number().int().nullish(),
    confidence: measured,
    is_correct: z.boolean().nullish(),
    top5_predictions: z
      .array(
        z.union([
          z
            .number()
            .int()
            .transform((id) => ({ label: String(id), label_id: id, confidence: null })),
          z
            .object({ label: text.optional(), label_id: z.number().int().optional(), confidence: measured })
            .transform((top) => ({ ...top, label: top.label ?? String(top.label_id ?? "") })),
        ]),
      )
      .max(100)
      .nullish(),
    extra_data: looseObject.nullish(),
  })
  .transform(
    (image): ImageResult => ({
      imagePath: image.image_path,
      imageName: image.image_name,
      trueLabel: image.true_label,
      trueLabelId: image.true_label_id ?? null,
      predictedLabel: image.predicted_label,
      predictedLabelId: image.predicted_label_id ?? null,
      confidence: image.confidence,
      isCorrect: image.is_correct ?? null,
      top5Predictions: image.top5_predictions ?? null,
      extraData: image.extra_data ?? null,
    }),
  );

const images = z.array(ImageSchema).max(MAX_IMAGES_PER_EVENT);

const count = z.number().int().min(0).max(1_000_000_000);

function schemas(limits: MetricNameLimits) {
  const end = (outcome: Outcome | "released") =>
    z
      .object({
        reason: z.string().max(100).nullish(),
        message: z.string().nullish(),
        error_message: z.string().nullish(),
        log_chunks: z.object({ stdout: count.default(0), stderr: count.default(0) }).nullish(),
        chunks_failed: count.nullish(),
      })
      .transform(
        (data): Report => ({
          type: "end",
          outcome,
          reason: reasonOf(outcome, data.reason),
          message: (data.message ?? data.error_message)?.slice(0, MAX_TEXT) ?? null,
          logChunks: data.log_chunks ?? null,
          chunksFailed: data.chunks_failed ?? 0,
        }),
      );
  return {
    started: z
      .object({ total_epochs: z.number().int().positive().max(MAX_EPOCH).nullish() })
      .transform((data): Report => ({ type: "started", totalEpochs: data.total_epochs ?? null })),
    epoch_complete: z
      .object({
        epoch,
        step: z.number().int().min(0).max(MAX_STEP).nullish(),
        loss: measured,
        accuracy: measured,
        learning_rate: measured,
        extra_metrics: metricRecord(limits),
      })
      .transform(
        (data): Report => ({
          type: "metric",
          epoch: data.epoch,
          step: data.step ?? 0,
          loss: data.loss,
          accuracy: data.accuracy,
          learningRate: data.learning_rate,
          extraMetrics: data.extra_metrics.values,
          nonFinite: data.extra_metrics.nonFinite.length > 0 ? data.extra_metrics.nonFinite : null,
        }),
      ),
    validation: z
      .object({
        epoch,
        task_type: optionalText,
        primary_metric_name: optionalText,
        primary_metric_value: measured,
        overall_loss: measured,
        metrics: metricRecord(limits),
        per_class_metrics: looseObject
          .refine((record) => ownEntries(record).length <= MAX_CLASSES, `at most ${MAX_CLASSES} classes`)
          .nullish(),
        confusion_matrix: z.array(z.array(z.number()).max(MAX_CLASSES)).max(MAX_CLASSES).nullish(),
        class_names: z.array(text).max(MAX_CLASSES).nullish(),
        checkpoint_path: optionalText,
        images: images.optional(),
      })
      .superRefine((data, context) => {
        const size = data.confusion_matrix?.length ?? 0;
        const square = data.confusion_matrix?.every((row) => row.length === size) ?? true;
        const named = !data.class_names || size === 0 || data.class_names.length === size;
        if (!square || !named) {
          context.addIssue({
            code: "custom",
            path: ["confusion_matrix"],
            message: "must be square, with one row for each class",
          });
        }
      })
      .transform(
        (data): Report => ({
          type: "validation",
          epoch: data.epoch,
          taskType: data.task_type,
          primaryMetricName: data.primary_metric_name,
          primaryMetricValue: data.primary_metric_value,
          overallLoss: data.overall_loss,
          metrics: withF1(data.metrics.values),
          perClassMetrics: data.per_class_metrics ? perClass(data.per_class_metrics) : null,
          confusionMatrix: data.confusion_matrix ?? null,
          classNames: data.class_names ?? null,
          checkpointPath: data.checkpoint_path,
          images: data.images ?? [],
        }),
      ),
    validation_images: z
      .object({ epoch, offset: z.number().int().min(0).max(10_000_000), images })
      .transform((data): Report => ({ type: "validationImages", ...data })),
    checkpoint: z.object({ artifact_id: z.string().uuid(), epoch, role: z.enum(["best", "last"]).nullish() }).transform(
      (data): Report => ({
        type: "checkpoint",
        artifactId: data.artifact_id,
        epoch: data.epoch,
        role: data.role ?? null,
      }),
    ),
    log: z
      .object({
        stream: z.enum(["stdout", "stderr"]).default("stdout"),
        lines: z.array(z.string()).max(MAX_LOG_LINES),
        timestamp: z.string().max(40).nullish(),
      })
      .transform((data): Report => {
        const atMs = data.timestamp ? Date.parse(data.timestamp) : Number.NaN;
        return { type: "log", stream: data.stream, lines: data.lines, atMs: Number.isFinite(atMs) ? atMs : null };
      }),
    completed: end("completed"),
    failed: end("failed"),
    stopped: end("stopped"),
    released: end("released"),
  } as const;
}

/** Trainers write `f1_score`; the contract answers `f1`. */
function withF1(metrics: Record<string, number | null>): Record<string, number | null> {
  const { f1_score: f1Score, ...rest } = metrics;
  return f1Score === undefined || "f1" in rest ? metrics : { ...rest, f1: f1Score };
}

function perClass(raw: Record<string, unknown>): Record<string, JsonObject> {
  return fromOwnEntries(
    ownEntries(raw).flatMap(([label, values]): [string, JsonObject][] => {
      if (typeof values !== "object" || values === null) return [];
      const { f1_score: f1Score, ...rest } = values as JsonObject;
      return [[label, f1Score === undefined || "f1" in rest ? (values as JsonObject) : { ...rest, f1: f1Score }]];
    }),
  );
}

const isCount = (value: unknown, max: number): value is number =>
  Number.isInteger(value) && typeof value === "number" && value >= 0 && value <= max;
/** A finite number, or nothing at all. */
const isMeasured = (value: unknown): value is number | null | undefined =>
  value === undefined || value === null || (typeof value === "number" && Number.isFinite(value));

/**
 * A point whose data are beyond doubt, read without a schema: nearly every event is one, and a schema takes most of its time.
 * Null for everything else, right or wrong: the schema decides then, with the same outcome for what is taken here.
 */
function plainMetric(data: unknown, limits: MetricNameLimits): Metric | null {
  if (typeof data !== "object" || data === null || Array.isArray(data)) return null;
  const { epoch, step = 0, loss, accuracy, learning_rate: learningRate, extra_metrics: extra } = data as JsonObject;
  if (!isCount(epoch, MAX_EPOCH) || !isCount(step, MAX_STEP)) return null;
  if (!isMeasured(loss) || !isMeasured(accuracy) || !isMeasured(learningRate)) return null;
  const extraMetrics: Record<string, number | null> = {};
  if (extra !== undefined && extra !== null) {
    if (typeof extra !== "object" || Array.isArray(extra)) return null;
    const names = Object.keys(extra);
    if (names.length > limits.names) return null;
    for (const name of names) {
      const value = (extra as JsonObject)[name];
      if (name === "__proto__" || name.length > limits.nameLength) return null;
      if (typeof value !== "number" || !Number.isFinite(value)) return null;
      extraMetrics[name] = value;
    }
  }
  return {
    type: "metric",
    epoch,
    step,
    loss: loss ?? null,
    accuracy: accuracy ?? null,
    learningRate: learningRate ?? null,
    extraMetrics,
    nonFinite: null,
  };
}

const cache = new Map<string, ReturnType<typeof schemas>>();

/**
 * Reads one event.
 * @param event its name; `data` its payload
 * @returns the report, or the code and the dotted field of what is wrong with it
 */
export function parseReport(
  event: string,
  data: unknown,
  limits: MetricNameLimits,
): Result<Report, { code: "VALIDATION_ERROR"; field: string; message: string }> {
  const plain = event === "epoch_complete" ? plainMetric(data, limits) : null;
  if (plain !== null) return ok(plain);
  const cacheKey = `${limits.names}:${limits.nameLength}`;
  const known = cache.get(cacheKey) ?? schemas(limits);
  cache.set(cacheKey, known);
  if (!Object.hasOwn(known, event)) {
    return err({
      code: "VALIDATION_ERROR",
      field: "event",
      message: `event: unknown event ${JSON.stringify(event.slice(0, 50))}`,
    });
  }
  const schema: z.ZodType<Report> = known[event as keyof typeof known];
  const parsed = schema.safeParse(data);
  if (parsed.success) return ok(flagged(parsed.data, data));
  const issue = parsed.error.issues[0];
  const field = ["data", ...(issue?.path ?? []).map(String)].join(".");
  return err({ code: "VALIDATION_ERROR", field, message: `${field}: ${issue?.message ?? "invalid"}` });
}

/** Adds the names of the top-level values that were given and are not finite. */
function flagged(report: Report, raw: unknown): Report {
  if (report.type !== "metric" || typeof raw !== "object" || raw === null) return report;
  const given = raw as JsonObject;
  const names = [
    lost(given.loss, report.loss) ? "loss" : null,
    lost(given.accuracy, report.accuracy) ? "accuracy" : null,
    lost(given.learning_rate, report.learningRate) ? "learning_rate" : null,
    ...(report.nonFinite ?? []),
  ].filter((name) => name !== null);
  return { ...report, nonFinite: names.length > 0 ? names : null };
}

/**
 * The identity of an event without a number inside its attempt (runner protocol, section 9): the same one twice is stored
 * once. Log lines have none of their own but their content, which `digest` stands for; a page of images replaces itself.
 */
export function identityOf(report: Report, digest: string): string | null {
  switch (report.type) {
    case "metric":
      return `metric:${report.epoch}:${report.step}`;
    case "validation":
      return `validation:${report.epoch}`;
    case "validationImages":
      return null;
    case "checkpoint":
      return `checkpoint:${report.artifactId}:${report.epoch}:${report.role ?? ""}`;
    case "log":
      return `log:${digest}`;
    case "started":
    case "end":
      return report.type;
  }
}
