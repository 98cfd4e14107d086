CREATE TABLE `dataset_upload_parts` (
	`upload_id` text NOT NULL,
	`n` integer NOT NULL,
	`etag` text NOT NULL,
	PRIMARY KEY(`upload_id`, `n`),
	FOREIGN KEY (`upload_id`) REFERENCES `dataset_uploads`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE TABLE `dataset_uploads` (
	`id` text PRIMARY KEY NOT NULL,
	`project_id` integer NOT NULL,
	`owner_id` integer NOT NULL,
	`name` text NOT NULL,
	`description` text,
	`format` text NOT NULL,
	`visibility` text NOT NULL,
	`size_bytes` integer NOT NULL,
	`sha256` text,
	`part_bytes` integer NOT NULL,
	`storage_upload_id` text NOT NULL,
	`state` text NOT NULL,
	`refusal` text,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`owner_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `dataset_uploads_owner` ON `dataset_uploads` (`owner_id`,`state`);--> statement-breakpoint
CREATE INDEX `dataset_uploads_updated` ON `dataset_uploads` (`updated_at`);--> statement-breakpoint
CREATE INDEX `dataset_files_path` ON `dataset_files` (`dataset_id`,`path`);--> statement-breakpoint
CREATE INDEX `dataset_files_split` ON `dataset_files` (`dataset_id`,`split`,`file_id`);--> statement-breakpoint
CREATE INDEX `dataset_files_label` ON `dataset_files` (`dataset_id`,`label`,`file_id`);--> statement-breakpoint
CREATE INDEX `training_jobs_dataset` ON `training_jobs` (`dataset_id`,`status`);