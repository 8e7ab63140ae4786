package container

import (
	"fmt"
	"strings"
)

// envFile is the variables of an env file (KEP-3721), which a POSIX shell would read alike: NAME='value', one after the
// other. What is between the quotes is taken as it is, line breaks too; space around the = and before a name, empty lines
// and lines that begin with # are nothing. Everything else is refused, with its line, so that no value is guessed.
func envFile(text string) (map[string]string, error) {
	vars := map[string]string{}
	line := 1
	for text != "" {
		text = skipBlank(text)
		if strings.HasPrefix(text, "#") || strings.HasPrefix(text, "\n") || text == "" {
			_, text, _ = strings.Cut(text, "\n")
			line++
			continue
		}
		head, _, _ := strings.Cut(text, "\n")
		name, _, ok := strings.Cut(head, "=")
		if name = strings.TrimRight(name, " \t\r"); !ok || name == "" || strings.ContainsAny(name, " \t'\"") {
			return nil, fmt.Errorf("line %d: want NAME='value'", line)
		}
		text = skipBlank(text[strings.IndexByte(text, '=')+1:])
		if !strings.HasPrefix(text, "'") {
			return nil, fmt.Errorf("line %d: the value of %s is not in single quotes", line, name)
		}
		value, rest, closed := strings.Cut(text[1:], "'")
		if !closed {
			return nil, fmt.Errorf("line %d: the quote of %s is not closed", line, name)
		}
		tail, rest, _ := strings.Cut(rest, "\n")
		if strings.TrimSpace(tail) != "" {
			return nil, fmt.Errorf("line %d: something follows the quoted value of %s", line+strings.Count(value, "\n"), name)
		}
		vars[name] = value // as in a shell, the last one counts
		line += strings.Count(value, "\n") + 1
		text = rest
	}
	return vars, nil
}

func skipBlank(text string) string { return strings.TrimLeft(text, " \t\r") }
