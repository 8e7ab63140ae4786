//go:build !race

package runtime

// raceDetector multiplies memory, so budgets do not count with it.
const raceDetector = false
