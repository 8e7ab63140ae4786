package kind

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"coracle/internal/kind/address"
	"coracle/internal/resource"
	"coracle/internal/servicerange"
)

// serviceCIDRHooks has cluster IPs given from each range that is ready.
func serviceCIDRHooks(c Cluster) Hooks {
	book := c.Book
	if book == nil {
		return Hooks{}
	}
	follow := func(o runtime.Object) {
		cidr := o.(*networkingv1.ServiceCIDR)
		var ranges []netip.Prefix
		if servicerange.Gives(cidr) {
			ranges = servicerange.Of(cidr)
		}
		if book.SetRange(cidr.Name, ranges...) != nil {
			_ = book.SetRange(cidr.Name) // it is too small, and its controller says so
		}
	}
	return Hooks{
		Restore: func(stored []runtime.Object) error {
			for _, o := range stored {
				follow(o)
			}
			return nil
		},
		BeginUpdate: func(_ context.Context, o, _ runtime.Object, dryRun bool) (Finish, error) {
			return func(_ context.Context, success bool) {
				if success && !dryRun {
					follow(o)
				}
			}, nil
		},
		AfterDelete: func(o runtime.Object, dryRun bool) {
			if !dryRun {
				_ = book.SetRange(o.(*networkingv1.ServiceCIDR).Name)
			}
		},
	}
}

// ipAddressHooks keeps the addresses of IPAddresses that are no Service's from being given to one.
func ipAddressHooks(c Cluster) Hooks {
	book := c.Book
	if book == nil {
		return Hooks{}
	}
	reserve := func(o runtime.Object) error {
		a := o.(*networkingv1.IPAddress)
		ip, err := netip.ParseAddr(a.Name)
		if err != nil || !servicerange.Reserves(a) {
			return nil // validation has the better words for it
		}
		if err := book.Reserve(ip); errors.Is(err, address.ErrOfService) {
			return apierrors.NewConflict(resource.IPAddresses.GroupResource(), a.Name, fmt.Errorf(
				"%w: give the IPAddress the label %s=%s and the Service as its parentRef, or take another address", err, networkingv1.LabelManagedBy, servicerange.AddressManager))
		}
		return nil
	}
	unreserve := func(o runtime.Object) {
		if ip, err := netip.ParseAddr(o.(*networkingv1.IPAddress).Name); err == nil {
			book.Unreserve(ip)
		}
	}
	return Hooks{
		Restore: func(stored []runtime.Object) error {
			for _, o := range stored {
				_ = reserve(o) // where a Service has it too, it stays the Service's
			}
			return nil
		},
		BeginCreate: func(_ context.Context, o runtime.Object, dryRun bool) (Finish, error) {
			if err := reserve(o); err != nil {
				return nil, err
			}
			return func(_ context.Context, success bool) {
				if !success || dryRun {
					unreserve(o)
				}
			}, nil
		},
		BeginUpdate: func(_ context.Context, o, old runtime.Object, dryRun bool) (Finish, error) {
			now, was := servicerange.Reserves(o.(*networkingv1.IPAddress)), servicerange.Reserves(old.(*networkingv1.IPAddress))
			if now && !was {
				if err := reserve(o); err != nil {
					return nil, err
				}
			}
			return func(_ context.Context, success bool) {
				done := success && !dryRun
				if now && !was && !done || was && !now && done { // what was taken is settled by the outcome
					unreserve(o)
				}
			}, nil
		},
		AfterDelete: func(o runtime.Object, dryRun bool) {
			if !dryRun {
				unreserve(o)
			}
		},
	}
}
