CREATE TABLE `metric_extremes` (
	`job_id` integer NOT NULL,
	`attempt` integer NOT NULL,
	`level` integer NOT NULL,
	`last_key` integer NOT NULL,
	`series` text NOT NULL,
	`low` real NOT NULL,
	`low_key` integer NOT NULL,
	`high` real NOT NULL,
	`high_key` integer NOT NULL,
	PRIMARY KEY(`job_id`, `attempt`, `level`, `last_key`, `series`)
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `metric_segments` (
	`job_id` integer NOT NULL,
	`attempt` integer NOT NULL,
	`level` integer NOT NULL,
	`last_key` integer NOT NULL,
	`first_key` integer NOT NULL,
	`points` integer NOT NULL,
	PRIMARY KEY(`job_id`, `attempt`, `level`, `last_key`)
) WITHOUT ROWID;
--> statement-breakpoint
ALTER TABLE `job_attempts` ADD `first_epoch` integer;