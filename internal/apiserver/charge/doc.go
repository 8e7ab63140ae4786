// Package charge takes what is written off the quotas of its namespace, exactly, also when many write at once
// (docs/design/0007-quota.md).
//
// It owns the charges that are open, and whose turn it is. What a write uses is said by package quota.
package charge
