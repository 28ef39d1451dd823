package image

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// Further containers are in a config with what each has, and add nothing to one that has none.
func TestConfigOfSeveralContainers(t *testing.T) {
	one := testConfig()
	data, err := one.encode()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte(`"name":"box","id"`)) || bytes.Count(data, []byte(`"mounts"`)) != 1 {
		t.Errorf("a config of one container became %s", data)
	}
	several := testConfig()
	several.Containers = append(several.Containers, Container{
		Name: "web", ID: "1234", Spec: json.RawMessage(`{"process":{}}`), Mounts: json.RawMessage(`{"mounts":[]}`),
	})
	if data, err = several.encode(); err != nil {
		t.Fatal(err)
	}
	again, err := decodeConfig("config", data)
	if err != nil || !reflect.DeepEqual(again.Containers[1], several.Containers[1]) {
		t.Errorf("%+v, %v", again, err)
	}
	several.Containers[1].ID = strings.Repeat("x", MaxTextBytes+1)
	if _, err := several.encode(); err == nil {
		t.Error("an ID without bounds is written")
	}
}
