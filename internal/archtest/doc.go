// Package archtest holds the rules of docs/ARCHITECTURE.md as tests: who may import whom, which
// rooms are pure, that every package says what it owns, and which names are forbidden.
//
// It owns the tables of those rules, each with its reason, so that moving a wall is a decision
// that shows in a diff. It refuses to look at behaviour: it reads source, and runs none.
package archtest
