"""Rows of a published run in the formats and files that trainers take."""

FORMATS = ("alpaca", "messages", "sharegpt", "prompt-completion", "completion")
FILE_KINDS = ("jsonl", "parquet")
SELECTED, SCORED = "selected", "scored"
