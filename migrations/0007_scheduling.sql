ALTER TABLE `training_jobs` ADD `priority` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE `training_jobs` ADD `required_labels` text DEFAULT '{}' NOT NULL;--> statement-breakpoint
ALTER TABLE `training_jobs` ADD `min_gpu_memory_mb` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE `training_jobs` ADD `lost_after_s` integer;--> statement-breakpoint
ALTER TABLE `training_jobs` ADD `max_duration_s` integer;--> statement-breakpoint
ALTER TABLE `projects` ADD `max_running_jobs` integer;