package bounds

import (
	"net/url"
	"strings"
)

// quick is the length of a query within which nothing can be too much.
const quick = 2 * Requirements

// Query returns what there is too much of in the query of a URL.
func Query(raw string) error {
	if len(raw) < quick {
		return nil
	}
	if len(raw) > QueryBytes {
		return &Excess{What: "the query of the URL is too long", Limit: QueryBytes, Unit: "bytes"}
	}
	for part := range strings.SplitSeq(raw, "&") {
		key, value, _ := strings.Cut(part, "=")
		key, err := url.QueryUnescape(key)
		if err != nil {
			continue // not a parameter
		}
		switch key {
		case "labelSelector", "fieldSelector", "shardSelector":
			if err := selector(key, value); err != nil {
				return err
			}
		case "continue":
			if len(value) > ContinueBytes {
				return &Excess{What: "the continue token is too long", Param: key, Limit: ContinueBytes, Unit: "bytes",
					Do: "give the token of the previous page, unchanged"}
			}
		}
	}
	return nil
}

func selector(key, escaped string) error {
	advice := "ask several times with shorter ones, or give the objects a label to select them by"
	if len(escaped) > SelectorBytes {
		return &Excess{What: "the " + key + " is too long", Param: key, Limit: SelectorBytes, Unit: "bytes", Do: advice}
	}
	text, err := url.QueryUnescape(escaped)
	if err != nil {
		return nil //nolint:nilerr // not a parameter
	}
	requirements, depth := 1, 0
	for i := range len(text) {
		switch text[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth <= 0 {
				requirements++
			}
		}
	}
	if requirements > Requirements {
		return &Excess{What: "the " + key + " has too many conditions", Param: key, Limit: Requirements, Unit: "of them", Do: advice}
	}
	return nil
}
