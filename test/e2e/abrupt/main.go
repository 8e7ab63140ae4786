// Command abrupt is an HTTP server that closes its listener as soon as it is told to end, as most servers do: requests that
// are led to it after that fail. It answers what it has accepted. `abrupt RELEASE` says that word to every request.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: ":8080", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, os.Args[1:])
	})}
	ended := make(chan error, 1)
	context.AfterFunc(ctx, func() { ended <- server.Shutdown(context.Background()) })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "abrupt:", err)
		os.Exit(1)
	}
	if err := <-ended; err != nil {
		fmt.Fprintln(os.Stderr, "abrupt:", err)
	}
}
