import pytest

SMALL = "scenario: {dataset: digits, tasks: 5, classes_per_task: 2, clients: 4, samples_per_client: 60}\n"
FLEET = "fleet: [{device: jetson-nano, count: 4}]\n"
VISITS = SMALL + FLEET + "training: {client_fraction: 0.5, rounds_per_task: 3, batch_size: 20}\n"


def test_counts_that_do_not_add_up_are_told_with_both_numbers(faults_of):
    text = SMALL + "fleet:\n  - {device: jetson-nano, count: 8}\n  - {device: jetson-tx2, count: 3}\n"
    assert faults_of(text) == [
        "x.yaml:2: fleet: the counts add up to 11 (8 + 3), but scenario.clients is 4; make them equal"
    ]


def test_a_default_fleet_that_does_not_add_up_is_told_where_clients_were_said(faults_of):
    assert faults_of("seed: 1\nscenario:\n  clients: 8\n") == [
        "x.yaml:3: fleet: the counts add up to 20 (8 + 2 + 8 + 2), but scenario.clients is 8; make them equal"
    ]


def test_unknown_devices_are_told_even_beside_faulty_entries(faults_of):
    text = "fleet:\n- {device: jetson-nan, count: 20}\n- {device: jetson-tx2}\n- {device: 3, count: 1}\n- x\n"
    assert faults_of(text) == [
        "x.yaml:2: fleet.0.device: unknown device 'jetson-nan'; did you mean 'jetson-nano'?",
        "x.yaml:3: fleet.1.count: is missing",
        "x.yaml:4: fleet.2.device: must be text, got 3",
        "x.yaml:5: fleet.3: must be a mapping of keys, got 'x'",
    ]


def test_an_unknown_model_is_told_with_the_nearest(faults_of):
    assert faults_of("model:\n  name: cnn5\n") == ["x.yaml:2: model.name: unknown model 'cnn5'; did you mean 'cnn6'?"]


def test_a_model_that_does_not_suit_the_data_is_told_with_the_reason(faults_of):
    assert faults_of(SMALL + FLEET + "model: {name: resnet18}\n") == [
        "x.yaml:3: model.name: resnet18 does not suit digits (8 x 8 x 1): it needs 32 x 32 pixels"
    ]


@pytest.mark.parametrize(
    "keys",
    ["dataset: cifar10O", "dataset: cifar10O, source: bundled, data_root: data", "dataset: cifar10O, source: parquet"],
)
def test_an_unknown_data_set_is_told_with_the_nearest_and_what_data_of_ones_own_needs(faults_of, keys):
    assert faults_of(f"scenario: {{{keys}}}\n") == [
        "x.yaml:1: scenario.dataset: unknown data set 'cifar10O'; did you mean 'cifar100'? "
        "Data of your own needs scenario.data_root, and scenario.source: parquet or auto"
    ]


@pytest.mark.parametrize("source", ["auto", "parquet"])
def test_data_of_ones_own_is_accepted_where_there_is_a_data_root(load, source):
    config = load(f"scenario: {{dataset: flowers, data_root: data, source: {source}, tasks: 99}}\n")
    assert config.scenario.dataset == "flowers"


@pytest.mark.parametrize(
    ("dataset", "source", "message"),
    [
        ("cifar100", "bundled", "cifar100 is not bundled; use parquet with scenario.data_root, or torchvision"),
        ("miniimagenet", "bundled", "miniimagenet is not bundled; use parquet with scenario.data_root"),
        (
            "miniimagenet",
            "torchvision",
            "torchvision cannot fetch miniimagenet; use parquet with scenario.data_root",
        ),
    ],
)
def test_a_source_that_never_has_the_data_set_is_told_with_those_that_may(faults_of, dataset, source, message):
    text = f"scenario:\n  dataset: {dataset}\n  source: {source}\n"
    assert faults_of(text) == [f"x.yaml:3: scenario.source: {message}"]


def test_a_bundled_data_set_is_not_fetched(faults_of):
    assert faults_of(SMALL + FLEET, "scenario.source=torchvision") == [
        "--set scenario.source=torchvision: scenario.source: torchvision cannot fetch digits; use auto: it is bundled"
    ]


@pytest.mark.parametrize("source", ["auto", "bundled", "parquet"])
def test_a_bundled_data_set_may_come_from_any_other_source(load, source):
    assert load(SMALL + FLEET, f"scenario.source={source}").scenario.source == source


@pytest.mark.parametrize("source", ["auto", "parquet", "torchvision"])
def test_a_data_set_of_torchvisions_may_come_from_any_source_but_bundled(load, source):
    assert load("seed: 1\n", f"scenario.source={source}").scenario.source == source


def test_more_classes_than_the_data_set_has_are_told(faults_of):
    assert faults_of("scenario:\n  tasks: 11\n") == [
        "x.yaml:2: scenario.tasks: 11 tasks x 10 classes_per_task need 110 classes, but cifar100 has 100; "
        "lower one of them"
    ]


def test_fewer_classes_than_the_data_set_has_are_fine(load):
    assert load("scenario: {tasks: 3}\n").scenario.tasks == 3


def test_a_fraction_that_gives_no_client_is_told(faults_of):
    assert faults_of(SMALL + FLEET + "training:\n  client_fraction: 0.1\n") == [
        "x.yaml:4: training.client_fraction: 0.1 of 4 clients is none; raise it to 0.25 or more"
    ]


def test_a_fraction_that_cohorts_override_may_give_no_client(load):
    config = load(SMALL + FLEET + "training: {client_fraction: 0.1}\npolicy: {cohorts: [[0, 1]]}\n")
    assert config.policy.cohorts == ((0, 1),)


def test_a_batch_larger_than_a_clients_task_is_told(faults_of):
    assert faults_of("training: {batch_size: 241}\n") == [
        "x.yaml:1: training.batch_size: 241 is more than the 240 examples of a client's task "
        "(scenario.samples_per_client); lower it to 240 or less"
    ]


def test_a_batch_of_any_size_is_fine_where_clients_take_all_data(load):
    assert load("training: {batch_size: 999}\nscenario: {samples_per_client: null}\n").training.batch_size == 999


def test_more_shards_than_examples_are_told(faults_of):
    text = "training: {batch_size: 4}\nscenario:\n  samples_per_client: 4\n  partition:\n    shards_per_client: 5\n"
    assert faults_of(text) == [
        "x.yaml:5: scenario.partition.shards_per_client: 5 shards cannot share the 4 examples of a client's task "
        "(scenario.samples_per_client)"
    ]


def test_cohorts_name_clients_that_are_there(faults_of):
    assert faults_of(SMALL + FLEET + "policy:\n  cohorts:\n  - [0, 1]\n  - [3, 4]\n") == [
        "x.yaml:6: policy.cohorts.1.1: there is no client 4: scenario.clients is 4, so they are 0 to 3"
    ]


def test_what_a_method_cannot_go_with_is_told_where_it_stands(faults_of, load):
    text = "model: {head: global}\nmethod: {name: fedrep}\ntraining: {local_epochs: 3}\n"
    assert faults_of(text) == ["x.yaml:1: model.head: cannot be global in 3 epochs"]
    assert load(text, "model.head=local").method.name == "fedrep"
    assert load(text, "method.name=fedavg").model.head == "global"


def test_a_method_is_not_asked_about_what_is_faulty_by_itself(faults_of):
    text = "model: {head: global}\nmethod: {name: fedrep}\ntraining: {local_epochs: 0}\n"
    assert faults_of(text) == ["x.yaml:3: training.local_epochs: must be at least 1, got 0"]


def test_a_check_is_left_out_where_a_key_that_it_reads_is_faulty(faults_of):
    assert faults_of("scenario:\n  clients: none\n  tasks: 11\n") == [
        "x.yaml:2: scenario.clients: must be a whole number, got 'none'",
        "x.yaml:3: scenario.tasks: 11 tasks x 10 classes_per_task need 110 classes, but cifar100 has 100; "
        "lower one of them",
    ]


@pytest.mark.parametrize(
    ("policy", "faults"),
    [
        ("{name: deadline}", []),
        ("{name: deadline, deadline_s: 1 min, over_selection: 1}", []),
        (
            "{name: deadline, over_selection: 1}",
            [
                "x.yaml:4: policy: has no deadline_s, and starts the 2 of 4 clients that a round needs, so nobody can "
                "be late; give a deadline_s, raise over_selection or lower training.client_fraction"
            ],
        ),
        (
            "{name: deadline, deadline_s: 0}",
            ["x.yaml:4: policy.deadline_s: must be greater than 0: in no time nobody arrives"],
        ),
        ("{name: deadline, deadline_s: .inf}", ["x.yaml:4: policy.deadline_s: must be a finite number, got inf"]),
        ("{name: deadline, over_selection: 0.9}", ["x.yaml:4: policy.over_selection: must be at least 1, got 0.9"]),
        ("{name: deadline, late: hold}", ["x.yaml:4: policy.late: must be 'drop' or 'keep', got 'hold'"]),
        ("{name: fedbuff, buffer_size: 6, concurrency: 4}", []),
        (
            "{name: fedbuff, buffer_size: 7}",
            [
                "x.yaml:4: policy.buffer_size: 7 updates never come together: a task has 6 visits "
                "(training.rounds_per_task x clients of a round); lower it to 6 or less"
            ],
        ),
        (
            "{name: fedasync, concurrency: 5}",
            ["x.yaml:4: policy.concurrency: 5 is more than the 4 clients (scenario.clients)"],
        ),
        ("{name: fedasync, mixing: 0}", ["x.yaml:4: policy.mixing: must be greater than 0, got 0"]),
        ("{name: fedasync, mixing: 1, staleness_exponent: 0}", []),
        (
            "{name: fedasync, selection: random}",
            ["x.yaml:4: policy.selection: must be 'uniform', 'available' or 'longest_waiting', got 'random'"],
        ),
    ],
)
def test_what_a_policy_may_say(load, faults_of, policy, faults):
    text = f"{VISITS}policy: {policy}\n"
    if faults:
        assert faults_of(text) == faults
    else:
        load(text)


def test_rounds_of_all_clients_have_nobody_to_over_select(faults_of):
    text = SMALL + FLEET + "training: {client_fraction: 1, batch_size: 20}\npolicy: {name: deadline}\n"
    (fault,) = faults_of(text)
    assert "starts the 4 of 4 clients that a round needs" in fault


def test_a_policy_without_visits_is_told_once(faults_of):
    text = SMALL + FLEET + "training: {client_fraction: 0.1, batch_size: 20}\npolicy: {name: fedbuff}\n"
    assert faults_of(text) == [
        "x.yaml:3: training.client_fraction: 0.1 of 4 clients is none; raise it to 0.25 or more",
    ]


@pytest.mark.parametrize(("name", "faulty"), [("deadline", True), ("synchronous", True), ("fedasync", False)])
def test_a_failure_without_rounds_is_of_a_visits_number_in_the_task(load, faults_of, name, faulty):
    """A task has 3 rounds, and 6 visits."""
    text = f"{VISITS}policy: {{name: {name}}}\nfailures: {{schedule: [{{client: 0, task: 0, round: 4, at: 0.5}}]}}\n"
    if faulty:
        (fault,) = faults_of(text)
        assert "failures.schedule.0.round: there is no round 4" in fault
    else:
        load(text)


def test_a_measured_clock_and_the_file_of_its_host_go_together(load, faults_of):
    (fault,) = faults_of("clock: measured\n")
    assert "host_device: clock: measured needs the device file of this host" in fault
    (fault,) = faults_of("host_device: jetson-nano\n")
    assert "host_device: 'jetson-nano' is for clock: measured; the clock is virtual" in fault
    load("clock: measured\nhost_device: jetson-nano\n")
