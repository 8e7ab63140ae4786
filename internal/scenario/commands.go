package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/yaml"

	"coracle/internal/object"
	"coracle/internal/plan"
	"coracle/internal/resource"
	"coracle/internal/scenario/model"
	"coracle/internal/scheme"
	"coracle/internal/workload/placement"
)

type command struct {
	args int
	run  func(s *script, args []string, body string) (*string, error)
}

var commands map[string]command

func init() {
	commands = map[string]command{
		"given":    {0, given},
		"at":       {1, at},
		"pass":     {1, passes(func(s *script, d time.Duration) { s.world.Now = s.world.Now.Add(d) })},
		"stop":     {1, passes(func(s *script, d time.Duration) { s.world.Stop(d) })},
		"set":      {1, passes(func(s *script, d time.Duration) { s.world.Set(d) })},
		"restart":  {0, func(s *script, _ []string, _ string) (*string, error) { s.world.Restart(); return nil, nil }},
		"plan":     {2, planOne},
		"why":      {2, why},
		"settle":   {0, settle},
		"show":     {1, show},
		"images":   {1, images},
		"edit":     {2, edit},
		"schedule": {2, schedule},
		"ready":    {1, eachPod(ready)},
		"unready":  {1, eachPod(unready)},
		"crash":    {1, eachPod(crash)},
		"fail":     {1, eachPod(fail)},
		"delete":   {2, deleteAll},
		"gone":     {1, gone},
		"remove":   {2, remove},
		"collect":  {0, func(s *script, _ []string, _ string) (*string, error) { s.world.Collect(); return nil, nil }},
		"refuse":   {2, refuseActions},
		"allow":    {0, func(s *script, _ []string, _ string) (*string, error) { s.world.Refuse = nil; return nil, nil }},
	}
}

func given(s *script, _ []string, body string) (*string, error) {
	docs := yaml.NewYAMLReader(newLineReader(body))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(doc, nil, nil)
		if err != nil {
			return nil, err
		}
		s.world.Put(obj.(object.Object))
	}
}

func at(s *script, args []string, _ string) (*string, error) {
	d, err := time.ParseDuration(args[0])
	s.world.Now = Epoch.Add(d)
	return nil, err
}

// passes makes a command of something that takes a time.
func passes(do func(*script, time.Duration)) func(*script, []string, string) (*string, error) {
	return func(s *script, args []string, _ string) (*string, error) {
		d, err := time.ParseDuration(args[0])
		if err == nil {
			do(s, d)
		}
		return nil, err
	}
}

func planOne(s *script, args []string, _ string) (*string, error) {
	c, err := s.controller(args[0])
	if err != nil {
		return nil, err
	}
	key := keyOf(args[1])
	var text, instead strings.Builder
	var told []plan.Event
	out := s.carryOut(c, key, func(p plan.Plan) {
		text.WriteString(render(s.world, p))
		told = p.Events
	}, func(p plan.Plan) { writeStatus(&instead, s.world, p) })
	if out.Failure != nil {
		fmt.Fprintf(&text, "refused: %s\n%s", out.Failure.Status.Message, instead.String())
		writeEvents(&text, slices.DeleteFunc(out.Events, func(e plan.Event) bool { return slices.Contains(told, e) }))
	}
	all := text.String()
	return &all, nil
}

func why(s *script, args []string, _ string) (*string, error) {
	c, err := s.controller(args[0])
	if err != nil {
		return nil, err
	}
	text := renderWhy(s.plan(c, keyOf(args[1])).Why)
	return &text, nil
}

func settle(s *script, _ []string, _ string) (*string, error) {
	text, err := s.settle()
	return &text, err
}

func edit(s *script, args []string, body string) (*string, error) {
	res, err := resourceNamed(args[0])
	if err != nil {
		return nil, err
	}
	old, ok := s.world.Get(res, keyOf(args[1]).Namespace, keyOf(args[1]).Name)
	if !ok {
		return nil, fmt.Errorf("there is no %s %s", args[0], args[1])
	}
	patch, err := yaml.ToJSON([]byte(body))
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(raw, patch, old)
	if err != nil {
		return nil, err
	}
	obj, err := scheme.Scheme.New(res.GVK())
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(merged, obj); err != nil {
		return nil, err
	}
	s.world.Put(obj.(object.Object))
	return nil, nil
}

func schedule(s *script, args []string, _ string) (*string, error) {
	return eachPod(func(s *script, p *corev1.Pod) { place(s, p, args[1]) })(s, args[:1], "")
}

// eachPod makes a command that changes every pod whose name matches; there must be one.
func eachPod(change func(*script, *corev1.Pod)) func(*script, []string, string) (*string, error) {
	return func(s *script, args []string, _ string) (*string, error) {
		objs, err := s.match(resource.Pods, args[0])
		for _, o := range objs {
			model.Edit(s.world, o.GetNamespace(), o.GetName(), func(p *corev1.Pod) { change(s, p) })
		}
		return nil, err
	}
}

func place(s *script, p *corev1.Pod, node string) {
	if p.Spec.NodeName != "" {
		return
	}
	if pinned := placement.Pinned(&p.Spec); pinned != "" {
		node = pinned
	}
	if _, ok := s.world.Get(resource.Nodes, "", node); !ok {
		s.world.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}})
	}
	p.Spec.NodeName = node
	setCondition(s, p, corev1.PodScheduled, corev1.ConditionTrue, "", "")
}

func ready(s *script, p *corev1.Pod) {
	place(s, p, "node-1")
	p.Status.Phase = corev1.PodRunning
	if p.Status.StartTime == nil {
		p.Status.StartTime = &metav1.Time{Time: s.world.Now}
	}
	p.Status.ContainerStatuses = statuses(p, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	for i := range p.Status.ContainerStatuses {
		p.Status.ContainerStatuses[i].Ready = true
	}
	setCondition(s, p, corev1.PodReady, corev1.ConditionTrue, "", "")
}

func unready(s *script, p *corev1.Pod) {
	ready(s, p)
	for i := range p.Status.ContainerStatuses {
		p.Status.ContainerStatuses[i].Ready = false
	}
	setCondition(s, p, corev1.PodReady, corev1.ConditionFalse, "ContainersNotReady", "containers with unready status: [main]")
}

func crash(s *script, p *corev1.Pod) {
	unready(s, p)
	p.Status.ContainerStatuses = statuses(p, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
		Reason: "CrashLoopBackOff", Message: "back-off 10s restarting failed container"}})
	for i := range p.Status.ContainerStatuses {
		c := &p.Status.ContainerStatuses[i]
		c.RestartCount = 3
		c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
			ExitCode: 1, Reason: "Error", FinishedAt: metav1.Time{Time: s.world.Now}}
	}
}

func fail(s *script, p *corev1.Pod) {
	place(s, p, "node-1")
	p.Status.Phase = corev1.PodFailed
	setCondition(s, p, corev1.PodReady, corev1.ConditionFalse, "PodFailed", "")
}

func statuses(p *corev1.Pod, state corev1.ContainerState) []corev1.ContainerStatus {
	var list []corev1.ContainerStatus
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		list = append(list, corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: state})
	}
	return list
}

func setCondition(s *script, p *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) {
	c := corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.Time{Time: s.world.Now}}
	i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
	switch {
	case i < 0:
		p.Status.Conditions = append(p.Status.Conditions, c)
	case p.Status.Conditions[i].Status != status:
		p.Status.Conditions[i] = c
	}
}

func deleteAll(s *script, args []string, _ string) (*string, error) {
	res, err := resourceNamed(args[0])
	if err != nil {
		return nil, err
	}
	objs, err := s.match(res, args[1])
	for _, o := range objs {
		s.world.Apply(plan.Plan{Actions: []plan.Action{plan.Delete{Object: object.RefOf(o)}}})
	}
	return nil, err
}

func gone(s *script, args []string, _ string) (*string, error) {
	objs, err := s.match(resource.Pods, args[0])
	for _, o := range objs {
		if o.GetDeletionTimestamp() != nil {
			s.world.Remove(resource.Pods, o.GetNamespace(), o.GetName())
		}
	}
	return nil, err
}

func remove(s *script, args []string, _ string) (*string, error) {
	res, err := resourceNamed(args[0])
	if err != nil {
		return nil, err
	}
	objs, err := s.match(res, args[1])
	for _, o := range objs {
		s.world.Remove(res, o.GetNamespace(), o.GetName())
	}
	return nil, err
}

func refuseActions(s *script, args []string, body string) (*string, error) {
	res, err := resourceNamed(args[1])
	if err != nil {
		return nil, err
	}
	message := strings.TrimSpace(body)
	s.world.Refuse = func(a plan.Action) *metav1.Status {
		if verbOf(a) == args[0] && a.Target().Resource == res {
			return refusal(message, args[2:])
		}
		return nil
	}
	return nil, nil
}

// match returns the objects whose name matches a glob; none is an error.
func (s *script) match(res resource.Resource, pattern string) ([]object.Object, error) {
	key := keyOf(pattern)
	var found []object.Object
	for _, o := range s.world.List(res, "") {
		ok, err := path.Match(key.Name, o.GetName())
		if err != nil {
			return nil, err
		}
		if ok && (!res.Namespaced || o.GetNamespace() == key.Namespace) {
			found = append(found, o)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no %s matches %s", res.Plural, pattern)
	}
	return found, nil
}

func keyOf(name string) object.Key {
	if ns, n, ok := strings.Cut(name, "/"); ok {
		return object.Key{Namespace: ns, Name: n}
	}
	return object.Key{Namespace: appsNamespace, Name: name}
}

const appsNamespace = "default"

// resourceNamed finds a kind by its plural or its singular in lower case.
func resourceNamed(word string) (resource.Resource, error) {
	for _, o := range []object.Object{&appsv1.Deployment{}, &appsv1.ReplicaSet{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{},
		&appsv1.ControllerRevision{}, &corev1.ReplicationController{}, &corev1.Pod{}, &corev1.Node{}, &corev1.Namespace{},
		&corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}, &storagev1.StorageClass{}, &coordinationv1.Lease{},
		&corev1.ResourceQuota{}, &corev1.LimitRange{}} {
		if r := resource.Of(o); r.Plural == word || strings.ToLower(r.Kind) == word {
			return r, nil
		}
	}
	return resource.Resource{}, fmt.Errorf("scenario: no kind is called %q", word)
}
