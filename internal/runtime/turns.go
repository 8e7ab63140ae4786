package runtime

import "sync"

// turns lets one at a time work on what a key names. The zero value is ready.
type turns struct {
	mu   sync.Mutex
	held map[string]*turn
}

type turn struct {
	sync.Mutex
	users int // that hold or wait for it; guarded by turns.mu
}

// take waits for the key's turn and returns what gives it back.
func (t *turns) take(key string) (done func()) {
	t.mu.Lock()
	if t.held == nil {
		t.held = map[string]*turn{}
	}
	one := t.held[key]
	if one == nil {
		one = new(turn)
		t.held[key] = one
	}
	one.users++
	t.mu.Unlock()
	one.Lock()
	return func() {
		one.Unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(t.held, key)
		}
	}
}
