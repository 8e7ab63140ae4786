package reach

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Target{
		"web":               {Name: "web"},
		"web:80":            {Name: "web", Port: "80"},
		"web:http":          {Name: "web", Port: "http"},
		"https:web:":        {Scheme: "https", Name: "web"},
		"http:web:8080":     {Scheme: "http", Name: "web", Port: "8080"},
		"https:web:metrics": {Scheme: "https", Name: "web", Port: "metrics"},
	} {
		if got, err := Parse("pod", text); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", ":80", "ftp:web:80", "a:b:c:d", "file:x:1", "../x", "a b", "http::80"} {
		if got, err := Parse("pod", text); !apierrors.IsBadRequest(err) {
			t.Errorf("%q: %+v, %v; want 400", text, got, err)
		}
	}
}

func TestAllowed(t *testing.T) {
	for address, want := range map[string]bool{
		"10.1.2.3": true, "192.168.0.1": true, "8.8.8.8": true, "fd00::1": true, "2001:db8::1": true, "::ffff:10.0.0.1": true,
		"127.0.0.1": false, "127.9.9.9": false, "::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false, "::": false,
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "::ffff:169.254.169.254": false,
		"224.0.0.1": false, "ff02::1": false, "255.255.255.255": false, "": false, "localhost": false, "10.1": false, "010.1.1.1": false,
	} {
		if got := Allowed(address); got != want {
			t.Errorf("%q: %v, want %v", address, got, want)
		}
	}
}

func status(err error) int {
	if s, ok := err.(apierrors.APIStatus); ok {
		return int(s.Status().Code)
	}
	return 0
}

func TestPod(t *testing.T) {
	for _, test := range []struct {
		name, address string
		ports         []int32
		to            Target
		want          string
		code          int
		part          string
	}{
		{"the first port", "10.1.1.1", []int32{8080, 9090}, Target{}, "http://10.1.1.1:8080", 0, ""},
		{"no port at all", "10.1.1.1", nil, Target{}, "http://10.1.1.1", 0, ""},
		{"a port that is not declared", "10.1.1.1", []int32{8080}, Target{Port: "81", Scheme: "https"}, "https://10.1.1.1:81", 0, ""},
		{"IPv6", "fd00::1", nil, Target{}, "http://[fd00::1]", 0, ""},
		{"IPv6 with port", "fd00::1", nil, Target{Port: "1"}, "http://[fd00::1]:1", 0, ""},
		{"no address", "", nil, Target{}, "", http.StatusServiceUnavailable, "phase is Pending"},
		{"loopback", "127.0.0.1", nil, Target{Port: "22"}, "", http.StatusBadRequest, "address not allowed"},
		{"metadata service", "169.254.169.254", nil, Target{}, "", http.StatusBadRequest, "address not allowed"},
		{"a name for an address", "localhost", nil, Target{}, "", http.StatusBadRequest, "address not allowed"},
		{"a port's name", "10.1.1.1", nil, Target{Port: "http"}, "", http.StatusBadRequest, "give a number"},
		{"port 0", "10.1.1.1", nil, Target{Port: "0"}, "", http.StatusBadRequest, "give a number"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{PodIP: test.address, Phase: corev1.PodPending}}
		pod.Spec.Containers = []corev1.Container{{Name: "without"}, {Name: "with"}}
		for _, p := range test.ports {
			pod.Spec.Containers[1].Ports = append(pod.Spec.Containers[1].Ports, corev1.ContainerPort{ContainerPort: p})
		}
		got, err := Pod(pod, test.to)
		switch {
		case test.code != 0:
			if status(err) != test.code || !strings.Contains(err.Error(), test.part) {
				t.Errorf("%s: %v, want %d %q", test.name, err, test.code, test.part)
			}
		case err != nil || got.String() != test.want:
			t.Errorf("%s: %v, %v; want %s", test.name, got, err, test.want)
		}
	}
}

func TestService(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"}}
	svc.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "admin", Port: 81}}
	plain := svc.DeepCopy()
	plain.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	endpoint := func(address, pod string, ready *bool) discoveryv1.Endpoint {
		e := discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
		if pod != "" {
			e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: pod}
		}
		return e
	}
	slice := func(of, port string, number int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Labels: map[string]string{discoveryv1.LabelServiceName: of}},
			Ports:      []discoveryv1.EndpointPort{{Name: &port, Port: &number}}, Endpoints: endpoints,
		}
	}
	foreign := endpoint("10.0.0.9", "z", nil)
	foreign.TargetRef.Namespace = "other"
	slices := []*discoveryv1.EndpointSlice{
		slice("s", "http", 8080, endpoint("10.0.0.1", "a", ptr.To(true)), endpoint("10.0.0.2", "b", ptr.To(false)),
			endpoint("127.0.0.1", "c", nil), endpoint("10.0.0.3", "", nil), foreign),
		slice("s", "admin", 9090, endpoint("10.0.0.1", "a", nil)),
		slice("s", "", 7070, endpoint("10.0.0.1", "a", nil)),
		slice("other", "http", 6060, endpoint("10.0.0.7", "x", nil)),
	}
	for _, test := range []struct {
		name string
		svc  *corev1.Service
		to   Target
		want []Endpoint
		part string
	}{
		{"by name", svc, Target{Port: "http"}, []Endpoint{{"10.0.0.1", 8080, "a"}}, ""},
		{"by number", svc, Target{Port: "81"}, []Endpoint{{"10.0.0.1", 9090, "a"}}, ""},
		{"the port without name", plain, Target{}, []Endpoint{{"10.0.0.1", 7070, "a"}}, ""},
		{"a number that is no port of it", svc, Target{Port: "8080"}, nil, `no service port 8080 found for service "s"`},
		{"a name that is none", svc, Target{Port: "ftp"}, nil, `no endpoints available for service "s"`},
	} {
		got, err := Service(test.svc, slices, test.to)
		if len(got) != len(test.want) || len(got) == 1 && got[0] != test.want[0] {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
		if test.part != "" && (status(err) != http.StatusServiceUnavailable || !strings.Contains(err.Error(), test.part)) {
			t.Errorf("%s: %v, want 503 %q", test.name, err, test.part)
		}
	}
	if _, err := Service(svc, slices[:2], Target{}); err == nil || !strings.Contains(err.Error(), "s:PORT with PORT one of http, admin") {
		t.Errorf("named ports and no port given: %v", err)
	}
}

func TestNode(t *testing.T) {
	node := func(address string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeInternalIP, Address: address}}
		n.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
		return n
	}
	for _, test := range []struct {
		name  string
		node  *corev1.Node
		to    Target
		want  string
		agent bool
		code  int
	}{
		{"its agent", node("10.0.0.1"), Target{}, "https://10.0.0.1:10250", true, 0},
		{"its agent by port, whatever scheme", node("10.0.0.1"), Target{Scheme: "http", Port: "10250"}, "https://10.0.0.1:10250", true, 0},
		{"its agent on this machine", node("127.0.0.1"), Target{}, "https://127.0.0.1:10250", true, 0},
		{"another port", node("10.0.0.1"), Target{Port: "9100"}, "http://10.0.0.1:9100", false, 0},
		{"another port of this machine", node("127.0.0.1"), Target{Port: "2379"}, "", false, 400},
		{"a name for an address", node("metadata.internal"), Target{}, "", false, 400},
		{"no agent", &corev1.Node{}, Target{}, "", false, 503},
		{"no number", node("10.0.0.1"), Target{Port: "http"}, "", false, 400},
	} {
		got, agent, err := Node(test.node, test.to)
		if status(err) != test.code || agent != test.agent || err == nil && got.String() != test.want {
			t.Errorf("%s: %v, %v, %v; want %s, %v, %d", test.name, got, agent, err, test.want, test.agent, test.code)
		}
	}
}
