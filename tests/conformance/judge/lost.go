package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sort"

	"sigs.k8s.io/yaml"
)

// lost returns the fields of a document that a type it was decoded into does not give back. Strict decoding does not
// reach below a type that decodes itself, as KubeVirt's VirtualMachineInstanceSpec does. What is empty may be lost.
func lost(document []byte, typed any) ([]string, error) {
	var before, after any
	if err := yaml.Unmarshal(document, &before); err != nil {
		return nil, err
	}
	again, err := json.Marshal(typed)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(again, &after); err != nil {
		return nil, err
	}
	return compared("", before, after), nil
}

func compared(place string, before, after any) []string {
	var problems []string
	switch was := before.(type) {
	case map[string]any:
		is, ok := after.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("field %s is unknown, or of another type", place)}
		}
		keys := make([]string, 0, len(was))
		for key := range was {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		for _, key := range keys {
			value, kept := is[key]
			if !kept && !empty(was[key]) {
				problems = append(problems, fmt.Sprintf("unknown field %q in %s", key, place))
			} else if kept {
				problems = append(problems, compared(place+"."+key, was[key], value)...)
			}
		}
	case []any:
		is, ok := after.([]any)
		if !ok || len(is) != len(was) {
			return []string{fmt.Sprintf("field %s is unknown, or of another type", place)}
		}
		for number := range was {
			problems = append(problems, compared(fmt.Sprintf("%s[%d]", place, number), was[number], is[number])...)
		}
	}
	return problems
}

func empty(value any) bool {
	if value == nil {
		return true
	}
	of := reflect.ValueOf(value)
	if of.Kind() == reflect.Map || of.Kind() == reflect.Slice {
		return of.Len() == 0
	}
	return of.IsZero()
}
