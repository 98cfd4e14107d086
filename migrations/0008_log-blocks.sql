CREATE TABLE `log_blocks` (
	`job_id` integer NOT NULL,
	`first_line` integer NOT NULL,
	`line_count` integer NOT NULL,
	`stdout_lines` integer NOT NULL,
	`attempt` integer NOT NULL,
	`offset_bytes` integer NOT NULL,
	`size_bytes` integer NOT NULL,
	PRIMARY KEY(`job_id`, `first_line`)
) WITHOUT ROWID;
