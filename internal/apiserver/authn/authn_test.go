package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"pgregory.net/rapid"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// world is what tokens are bound to, and a clock.
type world struct {
	lives map[string]Life
	now   time.Time
}

func (w *world) life(plural, namespace, name string) (Life, bool) {
	l, ok := w.lives[plural+"/"+namespace+"/"+name]
	return l, ok
}

func newAccounts(t testing.TB, key *ecdsa.PrivateKey, w *world) *Accounts {
	t.Helper()
	a, err := NewAccounts("https://issuer", key, w.life)
	if err != nil {
		t.Fatal(err)
	}
	a.now = func() time.Time { return w.now }
	return a
}

func newWorld() *world {
	return &world{now: time.Unix(1000, 0), lives: map[string]Life{
		"serviceaccounts/n/a": {UID: "u1"}, "pods/n/p": {UID: "u2"},
		"nodes//x": {UID: "u3"}, "secrets/n/s": {UID: "u4"},
	}}
}

func TestTokenLife(t *testing.T) {
	request := Request{Namespace: "n", Account: Bound{"a", "u1"}, Lifetime: time.Hour}
	bound := request
	bound.Pod, bound.Node = &Bound{"p", "u2"}, &Bound{"x", "u3"}
	secret := request
	secret.Secret = &Bound{"s", "u4"}
	onNode := request
	onNode.Node = &Bound{"x", "u3"}
	for _, x := range []struct {
		name    string
		request Request
		change  func(*world)
		want    string
	}{
		{"fresh", request, func(*world) {}, ""},
		{"at its last second", request, func(w *world) { w.now = w.now.Add(time.Hour - time.Second) }, ""},
		{"expired", request, func(w *world) { w.now = w.now.Add(time.Hour) }, "expired"},
		{"before its time", request, func(w *world) { w.now = w.now.Add(-2 * time.Minute) }, "not valid yet"},
		{"a clock behind", request, func(w *world) { w.now = w.now.Add(-30 * time.Second) }, ""},
		{"account gone", request, func(w *world) { delete(w.lives, "serviceaccounts/n/a") }, "invalidated"},
		{"account made anew", request, func(w *world) { w.lives["serviceaccounts/n/a"] = Life{UID: "other"} }, "made anew"},
		{"bound", bound, func(*world) {}, ""},
		{"pod gone", bound, func(w *world) { delete(w.lives, "pods/n/p") }, "invalidated"},
		{"pod going", bound, func(w *world) { w.lives["pods/n/p"] = Life{UID: "u2", Deleted: w.now} }, ""},
		{"pod going for long", bound, func(w *world) { w.lives["pods/n/p"] = Life{UID: "u2", Deleted: w.now.Add(-time.Hour)} }, "deleted"},
		{"node of a pod gone", bound, func(w *world) { delete(w.lives, "nodes//x") }, ""},
		{"node gone", onNode, func(w *world) { delete(w.lives, "nodes//x") }, "invalidated"},
		{"secret gone", secret, func(w *world) { delete(w.lives, "secrets/n/s") }, "invalidated"},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := newWorld()
			a := newAccounts(t, newKey(t), w)
			token, _, err := a.Issue(x.request)
			if err != nil {
				t.Fatal(err)
			}
			// Twice, because the second look is answered from memory.
			if _, _, err := a.AuthenticateToken(context.Background(), token); err != nil && x.want == "" {
				t.Fatal(err)
			}
			x.change(w)
			answer, ok, err := a.AuthenticateToken(context.Background(), token)
			switch {
			case x.want == "" && (err != nil || !ok):
				t.Fatalf("refused: %v", err)
			case x.want == "":
				if answer.User.GetName() != "system:serviceaccount:n:a" || types.UID(answer.User.GetUID()) != "u1" {
					t.Errorf("user %+v", answer.User)
				}
			case err == nil || !strings.Contains(err.Error(), x.want):
				t.Errorf("error %v, want one about %q", err, x.want)
			}
		})
	}
}

func TestAudiences(t *testing.T) {
	w := newWorld()
	a := newAccounts(t, newKey(t), w)
	token, _, err := a.Issue(Request{Namespace: "n", Account: Bound{"a", "u1"}, Lifetime: time.Hour, Audiences: []string{"vault"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := a.AuthenticateToken(context.Background(), token); ok {
		t.Error("a token for another reader is taken by the API server")
	}
	ctx := authenticator.WithAudiences(context.Background(), authenticator.Audiences{"vault", "other"})
	answer, ok, err := a.AuthenticateToken(ctx, token)
	if err != nil || !ok || len(answer.Audiences) != 1 || answer.Audiences[0] != "vault" {
		t.Errorf("audiences %v, %v", answer, err)
	}
}

// TestForgeriesAreRefused changes a token in any one place, or signs it with another key, or with
// none.
func TestForgeriesAreRefused(t *testing.T) {
	w := newWorld()
	key := newKey(t)
	a := newAccounts(t, key, w)
	token, _, err := a.Issue(Request{Namespace: "n", Account: Bound{"a", "u1"}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	none := encoding.EncodeToString([]byte(`{"alg":"none"}`))
	foreign, _, err := newAccounts(t, newKey(t), w).Issue(Request{Namespace: "n", Account: Bound{"a", "u1"}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAccounts("https://other", key, w.life)
	if err != nil {
		t.Fatal(err)
	}
	other.now = a.now
	issuer, _, err := other.Issue(Request{Namespace: "n", Account: Bound{"a", "u1"}, Lifetime: time.Hour, Audiences: []string{"https://issuer"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, forged := range map[string]string{
		"empty": "", "one part": "x", "unsigned": none + "." + parts[1] + ".", "no signature": parts[0] + "." + parts[1],
		"four parts": token + ".x", "another key": foreign, "another issuer": issuer, "too long": strings.Repeat("x", maxToken+1),
	} {
		if _, ok, err := a.AuthenticateToken(context.Background(), forged); ok || err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(token)-1).Draw(t, "at")
		b := []byte(token)
		b[at] = byte(rapid.IntRange(33, 126).Draw(t, "byte"))
		forged := string(b)
		// The last digit of a part may carry bits that mean nothing.
		if forged == token || encodesTheSame(forged, token) {
			t.Skip()
		}
		if _, ok, err := a.AuthenticateToken(context.Background(), forged); ok || err == nil {
			t.Errorf("accepted with byte %d changed", at)
		}
	})
}

func encodesTheSame(x, y string) bool {
	a, b := strings.Split(x, "."), strings.Split(y, ".")
	if len(a) != len(b) || a[0] != b[0] || a[1] != b[1] {
		return false
	}
	p, errP := encoding.DecodeString(a[2])
	q, errQ := encoding.DecodeString(b[2])
	return errP == nil && errQ == nil && string(p) == string(q)
}

// TestClaimsAreUpstreams reads a token as a client library does.
func TestClaimsAreUpstreams(t *testing.T) {
	a := newAccounts(t, newKey(t), newWorld())
	token, end, err := a.Issue(Request{Namespace: "n", Account: Bound{"a", "u1"}, Pod: &Bound{"p", "u2"}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	body, err := encoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	k8s, _ := got["kubernetes.io"].(map[string]any)
	if got["sub"] != "system:serviceaccount:n:a" || got["iss"] != "https://issuer" || got["exp"] != float64(end.Unix()) || k8s["namespace"] != "n" {
		t.Errorf("claims %s", body)
	}
}

func BenchmarkToken(b *testing.B) {
	a := newAccounts(b, newKey(b), newWorld())
	token, _, err := a.Issue(Request{Namespace: "n", Account: Bound{"a", "u1"}, Lifetime: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := a.AuthenticateToken(context.Background(), token); err != nil {
			b.Fatal(err)
		}
	}
}
