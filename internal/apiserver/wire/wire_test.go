package wire

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"coracle/internal/apiserver/wire/wiretest"
	"coracle/internal/kind"
)

// TestJSONIsTheStandardLibrarys: the plan of each kind writes what encoding/json writes, to the byte.
func TestJSONIsTheStandardLibrarys(t *testing.T) {
	for _, k := range kind.All() {
		t.Run(k.Kind, rapid.MakeCheck(func(t *rapid.T) {
			r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
			obj := k.New()
			wiretest.Fill(r, obj)
			same(t, obj)
		}))
	}
}

func same(t interface{ Fatalf(string, ...any) }, obj any) {
	want, err := json.Marshal(obj)
	if err != nil {
		t.Fatalf("encoding/json refuses: %v", err)
	}
	got, err := AppendJSON([]byte("before"), obj)
	if err != nil || string(got) != "before"+string(want) {
		t.Fatalf("error %v; we write\n%s\nencoding/json writes\n%s", err, got, want)
	}
}

type strange struct {
	Any      any            `json:"any,omitempty"`
	Float    float64        `json:"float,omitempty"`
	Text     int            `json:"text,string"`
	Keys     map[int]string `json:"keys,omitempty"`
	Array    [2]bool        `json:"array,omitempty"`
	Unsigned uint16         `json:"unsigned,omitempty"`
	Again    *strange       `json:"again,omitempty"`
	hidden   string
	Dash     string `json:"-"`
	Hyphen   string `json:"-,"` //nolint:staticcheck // encoding/json takes it for the name
	Untagged string
}

type embedded struct {
	metav1.TypeMeta `json:",inline"`
	*strange
	Zero metav1.Time `json:"zero,omitzero"`
}

type recursive struct {
	Small int8                 `json:"small,omitempty"`
	Next  *recursive           `json:"next,omitempty"`
	List  []recursive          `json:"list"`
	Map   map[string]recursive `json:"map,omitempty"`
	Zero  metav1.Time          `json:"zero,omitempty,omitzero"`
	When  *metav1.Time         `json:"when,omitzero"`
	Empty struct{}             `json:"empty,omitempty"`
	Raw   json.RawMessage      `json:"raw,omitempty"`
	Text  map[string]string    `json:"text"`
	Bytes map[string][]byte    `json:"bytes"`
}

// TestWhatNoPlanCovers is left to encoding/json, and what contains itself ends.
func TestWhatNoPlanCovers(t *testing.T) {
	same(t, &strange{Any: map[string]any{"a": 1.5, "b": "<"}, Float: 1e30, Text: 3, Keys: map[int]string{2: "x", 10: "y"}, hidden: "h", Dash: "d", Hyphen: "e", Again: &strange{}})
	same(t, &embedded{strange: &strange{Float: 2}})
	same(t, &embedded{})
	same(t, &recursive{Small: 1, Next: &recursive{List: []recursive{{}, {Small: 3}}}, Map: map[string]recursive{"k": {}}, When: &metav1.Time{}, Raw: json.RawMessage(` {"a": 1}`)})
}

// TestStrings are written as encoding/json writes them.
func TestStrings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.RuneFrom([]rune("ab<>&\"\\\n\x00\u2028é")), 0, 20, -1),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 20), func(b []byte) string { return string(b) }))
		s := piece.Draw(t, "s")
		want, _ := json.Marshal(s)
		if got := appendString(nil, s); !bytes.Equal(got, want) {
			t.Fatalf("%q: we write %s, encoding/json %s", s, got, want)
		}
	})
}

// TestFinal: what is called final, encoding/json copies as it is.
func TestFinal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := []byte(rapid.StringOfN(rapid.RuneFrom([]rune("ab:{}<>& \n\x00\x20\x21é\u2028\x7f")), 0, 24, -1).Draw(t, "raw"))
		plain := len(raw) > 1 && raw[0] == '{' && !bytes.ContainsAny(raw, "<>& \n\x00") && bytes.IndexFunc(raw, func(r rune) bool { return r >= 0x80 }) < 0
		if Final(raw) != plain {
			t.Fatalf("%q: final %v", raw, !plain)
		}
	})
}

// TestPlansCoverTheAPI: no type of the kinds goes through encoding/json but those with a form of their own, which are
// rare.
func TestPlansCoverTheAPI(test *testing.T) {
	rare := map[string]bool{
		"runtime.RawExtension": true, "v1.Duration": true,
		"map[string]v1.Time":                         true,
		"map[v1.ResourceName]v1.ClaimResourceStatus": true,
	}
	for _, k := range kind.All() {
		made := builder{}
		made.of(reflect.TypeOf(k.New()).Elem())
		for t, f := range made {
			if reflect.ValueOf(f.append).Pointer() == reflect.ValueOf(usual(t)).Pointer() {
				if !rare[t.String()] {
					test.Errorf("%s, within %s, goes through encoding/json", t, k.Kind)
				}
			}
		}
	}
}

func BenchmarkJSON(b *testing.B) {
	p := &corev1.Pod{}
	wiretest.Fill(rand.New(rand.NewPCG(1, 2)), p)
	for name, encode := range map[string]func([]byte) ([]byte, error){
		"plan":     func(b []byte) ([]byte, error) { return AppendJSON(b, p) },
		"standard": func([]byte) ([]byte, error) { return json.Marshal(p) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				out, err := encode(buf[:0])
				if err != nil {
					b.Fatal(err)
				}
				buf = out
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

func BenchmarkString(b *testing.B) {
	s := strings.Repeat("x", 1024)
	var buf []byte
	b.SetBytes(int64(len(s)))
	for b.Loop() {
		buf = appendString(buf[:0], s)
	}
}
