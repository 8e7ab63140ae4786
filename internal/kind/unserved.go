package kind

// The warnings of kinds that are stored before anything acts on them: whoever writes one is told with every write, instead of
// finding out. A room that begins to act on one takes its line away, here and in the table of fields.
const warnPolicy = "NetworkPolicy is not enforced yet: it is stored, and no traffic is held back by it"
