// Command web is a small web application in front of PostgreSQL. Each request to / is written down as a visit and answered
// with its number, /count says how many there are, and /healthz whether the database answers.
//
// Where the database is and who asks say the variables of libpq: PGHOST, PGUSER, PGPASSWORD, PGDATABASE.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "github.com/lib/pq"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	db, err := sql.Open("postgres", "sslmode=disable connect_timeout=5")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	if err := prepare(ctx, db); err != nil {
		return err
	}
	server := &http.Server{Addr: ":8080", Handler: handler(db), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		ended <- server.Shutdown(grace)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

// prepare makes the table, as soon as the database answers.
func prepare(ctx context.Context, db *sql.DB) error {
	for {
		_, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS visits (id bigserial PRIMARY KEY, note text NOT NULL, by text NOT NULL)`)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		log.Print(err)
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func handler(db *sql.DB) http.Handler {
	self, _ := os.Hostname()
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, r *http.Request, query string, args ...any) {
		var n int64
		if err := db.QueryRowContext(r.Context(), query, args...).Scan(&n); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, n)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, `INSERT INTO visits (note, by) VALUES ($1, $2) RETURNING id`, r.URL.Query().Get("note"), self)
	})
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, `SELECT count(*) FROM visits`)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answer(w, r, `SELECT 1`) })
	return mux
}
