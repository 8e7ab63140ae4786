package runtime

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestGate: a probe that comes every second, and whose command takes half a minute to start, has one start under way and not
// thirty; what started too late is discarded, and then the next one gets its turn.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		slow := 30 * time.Second
		under, most, discarded := 0, 0, 0
		probe := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := g.pass(ctx); err != nil {
				return err
			}
			done, giveUp := launch(&g, func() (int, error) {
				under++
				most = max(most, under)
				time.Sleep(slow)
				under--
				return 1, nil
			}, func(int) { discarded++ })
			defer giveUp()
			select {
			case l := <-done:
				return l.err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for range 60 {
			if err := probe(); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("a probe that cannot start in time: %v", err)
			}
		}
		if most != 1 {
			t.Errorf("%d commands were being started at once", most)
		}
		slow = time.Millisecond
		time.Sleep(time.Minute)
		synctest.Wait()
		if discarded < 1 || under != 0 {
			t.Errorf("discarded %d, under way still %d", discarded, under)
		}
		before := discarded
		if err := probe(); err != nil {
			t.Errorf("once the machine is quick again: %v", err)
		}
		synctest.Wait()
		if discarded != before {
			t.Error("what was received was discarded")
		}
	})
}

// TestGateHoldsNobodyElse: commands that somebody waits for hold each other up in nothing, and a failed start shuts nothing.
func TestGateHoldsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		began := time.Now()
		ends := make(chan error)
		for range 10 {
			go func() {
				err := g.pass(t.Context())
				done, giveUp := launch(&g, func() (int, error) { time.Sleep(time.Second); return 0, errors.New("no") }, func(int) {})
				defer giveUp()
				if l := <-done; err == nil && l.err == nil {
					err = errors.New("no failure")
				}
				ends <- err
			}()
		}
		for range 10 {
			if err := <-ends; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != time.Second || g.pass(t.Context()) != nil {
			t.Errorf("ten at once took %s", took)
		}
	})
}
