package server

import "strings"

// ofTheNode stands in an answer for a path below the node's own directories.
const ofTheNode = "a file of the node's"

// withoutPaths returns a message in which no path below dir stands: who asks for a log has no business with where the
// node keeps it. An empty dir hides nothing.
func withoutPaths(message, dir string) string {
	if dir == "" || dir == "/" {
		return message
	}
	var b strings.Builder
	for {
		at := strings.Index(message, dir)
		if at < 0 {
			b.WriteString(message)
			return b.String()
		}
		rest := message[at+len(dir):]
		if rest != "" && rest[0] != '/' && !strings.ContainsRune(pathEnds, rune(rest[0])) { // another directory's name begins so
			b.WriteString(message[:at+len(dir)])
			message = rest
			continue
		}
		end := strings.IndexAny(rest, pathEnds)
		if end < 0 {
			end = len(rest)
		}
		b.WriteString(message[:at])
		b.WriteString(ofTheNode)
		message = rest[end:]
	}
}

// pathEnds are the characters that end a path in a message. No name that the node gives its files has one.
const pathEnds = " \t\n:;,\"'`()[]{}"
