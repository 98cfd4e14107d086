CREATE TABLE `breeding_state` (
	`id` integer PRIMARY KEY NOT NULL,
	`revision` integer NOT NULL,
	`changed_at` integer NOT NULL,
	`model_revision` integer,
	`model_version` text,
	`prediction_count` integer DEFAULT 0 NOT NULL
);
--> statement-breakpoint
CREATE TABLE `combinations` (
	`mother_id` text NOT NULL,
	`father_id` text NOT NULL,
	`prediction_id` text NOT NULL,
	PRIMARY KEY(`mother_id`, `father_id`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `cross_pictures` (
	`stem` text NOT NULL,
	`month` text NOT NULL,
	`sequence` integer NOT NULL,
	`content_key` text NOT NULL,
	`view` text NOT NULL,
	`engine` text NOT NULL,
	`created_at` integer NOT NULL,
	`stored_at` integer,
	PRIMARY KEY(`stem`, `month`, `sequence`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE UNIQUE INDEX `cross_pictures_content` ON `cross_pictures` (`stem`,`content_key`);--> statement-breakpoint
CREATE TABLE `forecasts` (
	`trait` text NOT NULL,
	`observation_id` text NOT NULL,
	`predicted` real NOT NULL,
	`lower` real NOT NULL,
	`upper` real NOT NULL,
	`confidence` real NOT NULL,
	`observed` real NOT NULL,
	`hit` integer NOT NULL,
	`covered` integer NOT NULL,
	`model_version` text NOT NULL,
	PRIMARY KEY(`trait`, `observation_id`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE INDEX `forecasts_observation` ON `forecasts` (`observation_id`);--> statement-breakpoint
CREATE TABLE `model_fits` (
	`version` text PRIMARY KEY NOT NULL,
	`size_bytes` integer NOT NULL,
	`strains` integer NOT NULL,
	`observations` integer NOT NULL,
	`summary` text NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `model_fits_created` ON `model_fits` (`created_at`);--> statement-breakpoint
CREATE TABLE `observations` (
	`id` text PRIMARY KEY NOT NULL,
	`mother_id` text NOT NULL,
	`father_id` text NOT NULL,
	`n` integer NOT NULL,
	`season` text,
	`environment` text,
	`phenotype` text NOT NULL,
	`created_by` integer,
	`created_at` integer NOT NULL,
	`import_id` text,
	FOREIGN KEY (`mother_id`) REFERENCES `strains`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`father_id`) REFERENCES `strains`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`created_by`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `observations_cross` ON `observations` (`mother_id`,`father_id`);--> statement-breakpoint
CREATE INDEX `observations_father` ON `observations` (`father_id`);--> statement-breakpoint
CREATE INDEX `observations_import` ON `observations` (`import_id`);--> statement-breakpoint
CREATE TABLE `predictions` (
	`id` text PRIMARY KEY NOT NULL,
	`mother_id` text NOT NULL,
	`father_id` text NOT NULL,
	`model_version` text NOT NULL,
	`body` text NOT NULL
);
--> statement-breakpoint
CREATE TABLE `strains` (
	`id` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`type` text NOT NULL,
	`weight` real,
	`length` real,
	`width` real,
	`ratio` real,
	`sugar_content` real,
	`firmness` real,
	`skin_thickness` real,
	`shape` text,
	`shape_ko` text,
	`source` text NOT NULL,
	`is_sample` integer DEFAULT false NOT NULL,
	`image_key` text,
	`search_key` text NOT NULL,
	`created_by` integer,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`created_by`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
