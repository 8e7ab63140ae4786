package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"k8s.io/client-go/tools/clientcmd"
)

// storePath is where a server tells administrators why its store takes no writes, with the files' names, which no other
// answer has.
const storePath = "/coracle/store"

// storeState is the answer; its zero value is a store that takes writes.
type storeState struct {
	Trouble string `json:"trouble,omitempty"`
	// ForGood says that only a start of the server helps.
	ForGood bool `json:"forGood,omitempty"`
}

// storeTrouble serves storePath. troubled is the store.
type storeTrouble struct {
	troubled interface{ Trouble() (error, bool) }
}

// ServeHTTP implements http.Handler.
func (s storeTrouble) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	state := storeState{}
	if cause, forGood := s.troubled.Trouble(); cause != nil {
		state = storeState{cause.Error(), forGood}
	}
	answerJSON(w, http.StatusOK, state)
}

// printStore tells when the store takes no writes, and says whether it does.
func printStore(ctx context.Context, out io.Writer, dir DataDir) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	config, err := clientcmd.BuildConfigFromFlags("", dir.Kubeconfig())
	if err != nil {
		return false, fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	raw, err := getRaw(ctx, config, storePath)
	if err != nil {
		return false, fmt.Errorf("ask the server for its store: %w", err)
	}
	state := storeState{}
	if err := json.Unmarshal(raw, &state); err != nil {
		return false, fmt.Errorf("read the server's answer about its store: %w", err)
	}
	return state.tell(out), nil
}

func (s storeState) tell(out io.Writer) bool {
	if s.Trouble == "" {
		return true
	}
	remedy := "Make room there or delete objects; it goes on by itself."
	if s.ForGood {
		remedy = "See to the disk, then end the server and start it again with `coracle up`; its pods run on meanwhile."
	}
	fmt.Fprintf(out, "\nThe store takes no writes: %s\n%s\n", s.Trouble, remedy)
	return false
}
