package main

import "fmt"

// The types of kubernetes-nmstate and OVN-Kubernetes cannot be had as Go modules. These are schemas of our own, of
// exactly the fields that OpenShift Virtualization documents for a Linux bridge and an OVN localnet.

// policy is a NodeNetworkConfigurationPolicy.
type policy struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   meta   `json:"metadata"`
	Spec       struct {
		NodeSelector map[string]string `json:"nodeSelector,omitempty"`
		DesiredState struct {
			Interfaces []nic `json:"interfaces"`
			OVN        *struct {
				BridgeMappings []bridgeMapping `json:"bridge-mappings"`
			} `json:"ovn,omitempty"`
		} `json:"desiredState"`
	} `json:"spec"`
}

type nic struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	State  string `json:"state"`
	MTU    int    `json:"mtu,omitempty"`
	Bridge *struct {
		Options *struct {
			STP struct {
				Enabled *bool `json:"enabled"`
			} `json:"stp"`
		} `json:"options,omitempty"`
		Port []struct {
			Name string `json:"name"`
		} `json:"port"`
	} `json:"bridge,omitempty"`
}

type bridgeMapping struct {
	Localnet string `json:"localnet"`
	Bridge   string `json:"bridge"`
	State    string `json:"state"`
}

func (p *policy) problems() []string {
	var found []string
	if len(p.Spec.DesiredState.Interfaces) == 0 {
		found = append(found, "spec.desiredState.interfaces is empty")
	}
	bridges := map[string]string{}
	for _, one := range p.Spec.DesiredState.Interfaces {
		where := "interface " + one.Name
		found = append(found, missing(where, map[string]any{"name": one.Name, "type": one.Type, "state": one.State})...)
		if one.Type != "linux-bridge" && one.Type != "ovs-bridge" && one.Type != "ethernet" {
			found = append(found, fmt.Sprintf("%s has the unknown type %q", where, one.Type))
		}
		if one.State != "up" && one.State != "absent" {
			found = append(found, fmt.Sprintf("%s has the unknown state %q", where, one.State))
		}
		if len(one.Name) > 15 {
			found = append(found, where+" has a name that the kernel does not take")
		}
		isBridge := one.Type != "ethernet"
		if isBridge && one.State == "up" && (one.Bridge == nil || len(one.Bridge.Port) == 0) {
			found = append(found, where+" has no port")
		}
		if !isBridge && one.Bridge != nil {
			found = append(found, where+" is no bridge and has ports")
		}
		bridges[one.Name] = one.Type
	}
	if p.Spec.DesiredState.OVN != nil {
		for _, mapping := range p.Spec.DesiredState.OVN.BridgeMappings {
			found = append(found, missing("bridge-mapping", map[string]any{"localnet": mapping.Localnet})...)
			if bridges[mapping.Bridge] != "ovs-bridge" {
				found = append(found, fmt.Sprintf("bridge-mapping names %q, which is no ovs-bridge of it", mapping.Bridge))
			}
			if mapping.State != "present" && mapping.State != "absent" {
				found = append(found, fmt.Sprintf("bridge-mapping has the unknown state %q", mapping.State))
			}
		}
	}
	return found
}

// userDefinedNetwork is a ClusterUserDefinedNetwork of the topology Localnet.
type userDefinedNetwork struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   meta   `json:"metadata"`
	Spec       struct {
		NamespaceSelector struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"namespaceSelector"`
		Network struct {
			Topology string `json:"topology"`
			Localnet struct {
				Role                string `json:"role"`
				PhysicalNetworkName string `json:"physicalNetworkName"`
				MTU                 int    `json:"mtu,omitempty"`
				IPAM                struct {
					Mode string `json:"mode"`
				} `json:"ipam"`
				VLAN *struct {
					Mode   string `json:"mode"`
					Access struct {
						ID int `json:"id"`
					} `json:"access"`
				} `json:"vlan,omitempty"`
			} `json:"localnet"`
		} `json:"network"`
	} `json:"spec"`
}

func (n *userDefinedNetwork) problems() []string {
	var found []string
	localnet := n.Spec.Network.Localnet
	if n.Spec.Network.Topology != "Localnet" || localnet.Role != "Secondary" || localnet.IPAM.Mode != "Disabled" {
		found = append(found, "it is no secondary localnet without addresses of its own")
	}
	found = append(found, missing("localnet", map[string]any{"physicalNetworkName": localnet.PhysicalNetworkName})...)
	if len(n.Spec.NamespaceSelector.MatchLabels) == 0 {
		found = append(found, "it would be made in every namespace")
	}
	if localnet.VLAN != nil && (localnet.VLAN.Mode != "Access" || localnet.VLAN.Access.ID < 1 || localnet.VLAN.Access.ID > 4094) {
		found = append(found, "its VLAN is none of 1 to 4094 in mode Access")
	}
	return found
}
