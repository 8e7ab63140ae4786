package event

import "regexp"

// passing are the parts of a message that are other ones at each try though the cause is the same: the names that a
// runtime gives what it makes, the nearer end of a connection, processes.
var passing = regexp.MustCompile(
	`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{12,}\b|:[0-9]{1,5}->|/proc/[0-9]+\b|\bpid [0-9]+\b`)

// causeOf is the part of a message that stays the same while its cause does.
func causeOf(message string) string { return passing.ReplaceAllLiteralString(message, "*") }
