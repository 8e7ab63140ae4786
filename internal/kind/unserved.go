package kind

// The warnings of kinds that are stored before anything acts on them: whoever writes one is told with every write, instead of
// finding out. A room that begins to act on one takes its line away, here and in the table of fields.
const (
	warnAddress = "IPAddress is not obeyed yet: it is stored, and cluster IPs are given out without a look at it"
	warnRange   = `ServiceCIDR is not obeyed yet: it is stored, and cluster IPs come from the range that the cluster was made with alone`
)
