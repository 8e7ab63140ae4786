package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"coracle/internal/filetree"
	"coracle/internal/runtime/cgroup"
)

// Destroy ends every container of a node whose runtime does not run, and removes its sandboxes,
// network, cgroups and state directory. Containers have the grace to end by themselves after
// their stop signal. It goes on past failures, and returns them all. It fails when a runtime runs
// there, and does nothing when there is no state.
func Destroy(ctx context.Context, cfg Config, grace time.Duration) error {
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	if _, err := os.Stat(cfg.StateDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lockState(cfg.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := newService(cfg)
	if err != nil {
		return err
	}
	defer s.close()
	errs := errors.Join(s.stopAll(ctx, grace), s.removeAll(ctx), s.net.Destroy())
	root, err := cgroup.Open(cfg.CgroupRoot)
	if err == nil {
		err = root.Remove()
	}
	if errs = errors.Join(errs, err); errs != nil {
		return fmt.Errorf("runtime: destroy: %w", errs)
	}
	if err := filetree.Dismantle(s.lcDir); err != nil {
		return fmt.Errorf("runtime: destroy: %w", err)
	}
	if err := os.Remove(s.rootsDir()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("runtime: destroy: %w", err)
	}
	_ = os.Remove(filepath.Dir(s.lcDir)) // /run/coracle, when nobody else is in it
	return removeDir(cfg.StateDir)
}

// stopAll stops every container, all at once: together they take one grace, not one each.
func (s *service) stopAll(ctx context.Context, grace time.Duration) error {
	var wg sync.WaitGroup
	all := s.filterContainers("", "", nil)
	errs := make([]error, len(all))
	for i, c := range all {
		wg.Go(func() { errs[i] = s.stop(ctx, c, grace) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *service) removeAll(ctx context.Context) error {
	var wg sync.WaitGroup
	all := s.listPods(nil)
	errs := make([]error, len(all))
	for i, p := range all {
		wg.Go(func() {
			_, errs[i] = s.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
