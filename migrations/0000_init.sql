CREATE TABLE `dataset_files` (
	`dataset_id` text NOT NULL,
	`file_id` integer NOT NULL,
	`path` text NOT NULL,
	`size_bytes` integer NOT NULL,
	`sha256` text NOT NULL,
	`storage_key` text NOT NULL,
	`zip_offset` integer,
	`compressed_size_bytes` integer,
	`method` integer,
	`split` text,
	`label` text,
	PRIMARY KEY(`dataset_id`, `file_id`),
	FOREIGN KEY (`dataset_id`) REFERENCES `datasets`(`id`) ON UPDATE no action ON DELETE no action
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `datasets` (
	`id` text PRIMARY KEY NOT NULL,
	`project_id` integer NOT NULL,
	`owner_id` integer NOT NULL,
	`name` text NOT NULL,
	`description` text,
	`format` text NOT NULL,
	`layout` text,
	`visibility` text NOT NULL,
	`task_type` text,
	`file_count` integer NOT NULL,
	`total_size_bytes` integer NOT NULL,
	`num_classes` integer,
	`class_names` text NOT NULL,
	`class_distribution` text NOT NULL,
	`splits` text,
	`warnings` text NOT NULL,
	`content_hash` text NOT NULL,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`project_id`) REFERENCES `projects`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`owner_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `datasets_project` ON `datasets` (`project_id`,`created_at`);--> statement-breakpoint
CREATE INDEX `datasets_public` ON `datasets` (`visibility`,`created_at`);--> statement-breakpoint
CREATE TABLE `artifacts` (
	`id` text PRIMARY KEY NOT NULL,
	`job_id` integer NOT NULL,
	`attempt` integer NOT NULL,
	`kind` text NOT NULL,
	`name` text NOT NULL,
	`role` text,
	`epoch` integer,
	`size_bytes` integer NOT NULL,
	`sha256` text NOT NULL,
	`storage_key` text NOT NULL,
	`manifest` text,
	`usable` integer DEFAULT true NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `artifacts_job` ON `artifacts` (`job_id`,`kind`,`created_at`);--> statement-breakpoint
CREATE TABLE `job_attempts` (
	`job_id` integer NOT NULL,
	`attempt` integer NOT NULL,
	`owner` text NOT NULL,
	`runner_id` text,
	`resume_epoch` integer NOT NULL,
	`started_at` integer NOT NULL,
	`ended_at` integer,
	`outcome` text,
	`reason` text,
	PRIMARY KEY(`job_id`, `attempt`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `log_chunks` (
	`job_id` integer NOT NULL,
	`first_line` integer NOT NULL,
	`line_count` integer NOT NULL,
	`attempt` integer NOT NULL,
	`stream` text NOT NULL,
	`seq` integer NOT NULL,
	`text` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`job_id`, `first_line`)
);
--> statement-breakpoint
CREATE INDEX `log_chunks_stream` ON `log_chunks` (`job_id`,`stream`,`first_line`);--> statement-breakpoint
CREATE TABLE `training_jobs` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`project_id` integer NOT NULL,
	`created_by` integer NOT NULL,
	`session_id` integer,
	`experiment_name` text,
	`tags` text NOT NULL,
	`notes` text,
	`framework` text NOT NULL,
	`model_name` text NOT NULL,
	`task_type` text NOT NULL,
	`dataset_id` text NOT NULL,
	`dataset_format` text NOT NULL,
	`num_classes` integer,
	`class_names` text NOT NULL,
	`image_size` integer NOT NULL,
	`epochs` integer NOT NULL,
	`batch_size` integer NOT NULL,
	`learning_rate` real NOT NULL,
	`advanced_config` text NOT NULL,
	`primary_metric` text NOT NULL,
	`primary_metric_mode` text NOT NULL,
	`created_at` integer NOT NULL,
	`status` text NOT NULL,
	`phase` text NOT NULL,
	`reason` text,
	`message` text,
	`attempt` integer DEFAULT 0 NOT NULL,
	`runner_id` text,
	`current_epoch` integer DEFAULT 0 NOT NULL,
	`total_epochs` integer,
	`mlflow_run_id` text,
	`best_value` real,
	`best_epoch` integer,
	`data_complete` integer,
	`log_truncated` integer DEFAULT false NOT NULL,
	`started_at` integer,
	`completed_at` integer,
	`updated_at` integer NOT NULL,
	`rev` integer DEFAULT 0 NOT NULL,
	FOREIGN KEY (`project_id`) REFERENCES `projects`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`created_by`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `training_jobs_project` ON `training_jobs` (`project_id`,`created_at`);--> statement-breakpoint
CREATE INDEX `training_jobs_moving` ON `training_jobs` (`status`,`updated_at`);--> statement-breakpoint
CREATE TABLE `training_metrics` (
	`job_id` integer NOT NULL,
	`epoch` integer NOT NULL,
	`step` integer NOT NULL,
	`attempt` integer NOT NULL,
	`id` integer NOT NULL,
	`loss` real,
	`accuracy` real,
	`learning_rate` real,
	`extra_metrics` text NOT NULL,
	`non_finite` text,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`job_id`, `epoch`, `step`, `attempt`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `validation_images` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`result_id` integer NOT NULL,
	`position` integer NOT NULL,
	`image_path` text,
	`image_name` text NOT NULL,
	`true_label` text,
	`true_label_id` integer,
	`predicted_label` text,
	`predicted_label_id` integer,
	`confidence` real,
	`is_correct` integer,
	`top5_predictions` text,
	`extra_data` text
);
--> statement-breakpoint
CREATE UNIQUE INDEX `validation_images_position` ON `validation_images` (`result_id`,`position`);--> statement-breakpoint
CREATE INDEX `validation_images_correct` ON `validation_images` (`result_id`,`is_correct`,`position`);--> statement-breakpoint
CREATE TABLE `validation_results` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`job_id` integer NOT NULL,
	`attempt` integer NOT NULL,
	`epoch` integer NOT NULL,
	`task_type` text NOT NULL,
	`primary_metric_name` text,
	`primary_metric_value` real,
	`overall_loss` real,
	`metrics` text NOT NULL,
	`per_class_metrics` text,
	`confusion_matrix` text,
	`class_names` text,
	`checkpoint_path` text,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `validation_results_epoch` ON `validation_results` (`job_id`,`attempt`,`epoch`);--> statement-breakpoint
CREATE TABLE `project_members` (
	`project_id` integer NOT NULL,
	`user_id` integer NOT NULL,
	`role` text NOT NULL,
	`created_at` integer DEFAULT (unixepoch() * 1000) NOT NULL,
	PRIMARY KEY(`project_id`, `user_id`),
	FOREIGN KEY (`project_id`) REFERENCES `projects`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
) WITHOUT ROWID;
--> statement-breakpoint
CREATE INDEX `project_members_user` ON `project_members` (`user_id`,`project_id`);--> statement-breakpoint
CREATE TABLE `projects` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`owner_id` integer NOT NULL,
	`name` text NOT NULL,
	`description` text,
	`task_type` text,
	`is_default` integer DEFAULT false NOT NULL,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`owner_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `projects_owner` ON `projects` (`owner_id`,`is_default`);--> statement-breakpoint
CREATE TABLE `users` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`email` text NOT NULL,
	`full_name` text NOT NULL,
	`password_hash` text NOT NULL,
	`is_admin` integer DEFAULT false NOT NULL,
	`token_version` integer DEFAULT 1 NOT NULL,
	`created_at` integer NOT NULL,
	`disabled_at` integer
);
--> statement-breakpoint
CREATE UNIQUE INDEX `users_email_unique` ON `users` (`email`);--> statement-breakpoint
CREATE TABLE `registration_tokens` (
	`token_hash` text PRIMARY KEY NOT NULL,
	`pool` text NOT NULL,
	`uses_left` integer NOT NULL,
	`expires_at` integer NOT NULL,
	`created_by` integer,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`created_by`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `registration_tokens_expiry` ON `registration_tokens` (`expires_at`);--> statement-breakpoint
CREATE TABLE `runners` (
	`id` text PRIMARY KEY NOT NULL,
	`machine_id` text NOT NULL,
	`pool` text NOT NULL,
	`name` text NOT NULL,
	`os` text,
	`gpus` text NOT NULL,
	`frameworks` text NOT NULL,
	`labels` text NOT NULL,
	`slots` integer NOT NULL,
	`version` text,
	`token_hash` text NOT NULL,
	`drain` integer DEFAULT false NOT NULL,
	`registered_at` integer NOT NULL,
	`revoked_at` integer
);
--> statement-breakpoint
CREATE UNIQUE INDEX `runners_machine_id_unique` ON `runners` (`machine_id`);--> statement-breakpoint
CREATE UNIQUE INDEX `runners_token_hash_unique` ON `runners` (`token_hash`);