/** The tasks that a model can be trained for, under the Training contract's names. */
export const TASK_TYPES = [
  "image_classification",
  "object_detection",
  "instance_segmentation",
  "semantic_segmentation",
  "pose_estimation",
] as const;

export type TaskType = (typeof TASK_TYPES)[number];
